//! What is looked at before TTNN is let near a card. TTNN waits without end for a card that another process holds, so that has to be
//! found out first.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use super::runtime::RuntimeError;

/// Where the driver (tt-kmd) puts one file for each card.
const NODES: &str = "/dev/tenstorrent";

/// What TTNN will run on, by the same environment variables that TTNN reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Card,
    /// `TT_METAL_MOCK_CLUSTER_DESC_PATH`: checks and allocates everything and computes nothing.
    Mock,
    /// `TT_METAL_SIMULATOR`
    Simulator,
}

impl Target {
    pub fn from_environment() -> Self {
        if env::var_os("TT_METAL_SIMULATOR").is_some() {
            Self::Simulator
        } else if env::var_os("TT_METAL_MOCK_CLUSTER_DESC_PATH").is_some() {
            Self::Mock
        } else {
            Self::Card
        }
    }

    /// Whether the target can be opened now, as far as that can be told without TTNN.
    pub fn check(self) -> Result<(), RuntimeError> {
        match self {
            Self::Card => {
                for node in visible_nodes(Path::new(NODES), env::var("TT_METAL_VISIBLE_DEVICES").ok().as_deref())? {
                    check_node(&node)?;
                }
                Ok(())
            }
            Self::Mock | Self::Simulator => Ok(()),
        }
    }
}

/// The cards that TTNN will take: all, or those of `TT_METAL_VISIBLE_DEVICES`.
fn visible_nodes(nodes: &Path, visible: Option<&str>) -> Result<Vec<PathBuf>, RuntimeError> {
    let entries = fs::read_dir(nodes).map_err(|error| {
        RuntimeError::Open(format!(
            "{}: {error}. Is a card installed (lspci -d 1e52:) and its driver, tt-kmd, loaded (lsmod)?",
            nodes.display()
        ))
    })?;
    // The folder by-id beside the cards holds links to them.
    let is_card = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let mut found: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|name| is_card(name)).collect();
    if let Some(visible) = visible {
        let wanted: Vec<&str> = visible.split(',').map(str::trim).collect();
        found.retain(|name| wanted.contains(&name.as_str()));
    }
    if found.is_empty() {
        let chosen = visible.map_or(String::new(), |visible| format!(" among TT_METAL_VISIBLE_DEVICES={visible}"));
        return Err(RuntimeError::Open(format!("There is no card in {}{chosen}", nodes.display())));
    }
    found.sort();
    Ok(found.into_iter().map(|name| nodes.join(name)).collect())
}

/// Refuses a card that may not be opened or that another process has open.
fn check_node(node: &Path) -> Result<(), RuntimeError> {
    if let Err(error) = fs::File::options().read(true).write(true).open(node) {
        return Err(RuntimeError::Open(format!("{}: {error}. Does this user have the rights to the card?", node.display())));
    }
    match holder(node, Path::new("/proc")) {
        Some(process) => Err(RuntimeError::Open(format!(
            "{} is in use by process {process}. End it, or choose another card with TT_METAL_VISIBLE_DEVICES",
            node.display()
        ))),
        None => Ok(()),
    }
}

/// A process other than this one that has `file` open, as `1234 (name)`. Processes of other users may go unseen.
fn holder(file: &Path, proc: &Path) -> Option<String> {
    let own = std::process::id();
    fs::read_dir(proc).ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()).find_map(|process| {
        let folder = proc.join(process.to_string());
        if process == own || !has_open(&folder, file).unwrap_or(false) {
            return None;
        }
        let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
        Some(format!("{process} ({})", name.trim()))
    })
}

fn has_open(process: &Path, file: &Path) -> io::Result<bool> {
    for descriptor in fs::read_dir(process.join("fd"))? {
        if fs::read_link(descriptor?.path()).is_ok_and(|target| target == file) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_machine_without_the_driver_is_told_so() {
        let error = visible_nodes(Path::new("/nonexistent/tenstorrent"), None).unwrap_err().to_string();
        assert!(error.contains("tt-kmd") && error.contains("/nonexistent/tenstorrent"), "{error}");
    }

    #[test]
    fn visible_devices_choose_among_the_cards_and_links_are_no_cards() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["0", "1", "by-id"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let nodes = |visible| visible_nodes(folder.path(), visible);
        assert_eq!(nodes(None).unwrap(), [folder.path().join("0"), folder.path().join("1")]);
        assert_eq!(nodes(Some("1")).unwrap(), [folder.path().join("1")]);
        assert!(nodes(Some("7")).unwrap_err().to_string().contains("TT_METAL_VISIBLE_DEVICES=7"));
    }

    #[test]
    fn a_card_that_another_process_holds_is_refused_with_the_name_of_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let node = folder.path().canonicalize().unwrap().join("0");
        fs::write(&node, "").unwrap();
        check_node(&node).unwrap();

        let held = fs::File::open(&node).unwrap();
        let mut other = Command::new("sleep").arg("60").stdin(Stdio::from(held)).spawn().unwrap();
        let error = check_node(&node).unwrap_err().to_string();
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(error.contains(&format!("process {} (sleep)", other.id())), "{error}");
        check_node(&node).unwrap();
    }

    #[test]
    fn a_card_that_does_not_exist_is_an_error() {
        let error = check_node(Path::new("/nonexistent/0")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/0"), "{error}");
    }
}
