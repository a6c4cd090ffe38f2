//! Where the robot profiles of an installation lie.

use std::path::{Path, PathBuf};

use super::RobotError;

/// Path of a profile: `robot` itself when it is a path, otherwise `<robot>.yaml` of an installation
/// (`<prefix>/share/pi0_tt/config/robots`) or of the checkout that this executable was built in.
pub fn find(robot: &str) -> Result<PathBuf, RobotError> {
    find_in(robot, &folders())
}

/// The folders of every prefix on `AMENT_PREFIX_PATH`, and those of the installation (`<prefix>/lib/pi0_tt/...`) or of the checkout
/// (`<checkout>/target/release/...`) that this executable belongs to.
fn folders() -> Vec<PathBuf> {
    let prefixes = std::env::var_os("AMENT_PREFIX_PATH").map(|paths| std::env::split_paths(&paths).collect::<Vec<_>>());
    let own = std::env::current_exe().ok().and_then(|exe| exe.ancestors().nth(3).map(Path::to_path_buf));
    let installed = prefixes.into_iter().flatten().chain(own.clone()).map(|prefix| prefix.join("share/pi0_tt/config/robots"));
    installed.chain(own.map(|checkout| checkout.join("config/robots"))).collect()
}

fn find_in(robot: &str, folders: &[PathBuf]) -> Result<PathBuf, RobotError> {
    if robot.contains('/') || robot.ends_with(".yaml") {
        return Ok(PathBuf::from(robot));
    }
    let file = format!("{robot}.yaml");
    folders.iter().map(|folder| folder.join(&file)).find(|path| path.is_file()).ok_or_else(|| {
        let entries = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
        let mut known: Vec<_> = entries
            .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.strip_suffix(".yaml")).map(str::to_owned))
            .collect();
        known.sort();
        known.dedup();
        RobotError::NotInstalled { name: robot.to_owned(), known }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_in_every_installation_in_order() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(second.path().join("aloha.yaml"), "").unwrap();
        let folders = [first.path().to_owned(), second.path().to_owned()];
        assert_eq!(find_in("aloha", &folders).unwrap(), second.path().join("aloha.yaml"));
        std::fs::write(first.path().join("aloha.yaml"), "").unwrap();
        assert_eq!(find_in("aloha", &folders).unwrap(), first.path().join("aloha.yaml"));
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        for path in ["robots/mine.yaml", "mine.yaml", "/etc/mine"] {
            assert_eq!(find_in(path, &[]).unwrap(), PathBuf::from(path));
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["so101.yaml", "aloha.yaml", "README.md"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let error = find_in("franka", &[folder.path().to_owned()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Robot profile franka is not installed. Installed are: aloha, so101. A path ending in .yaml works too"
        );
    }
}
