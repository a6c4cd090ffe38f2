//! Finds TTNN, checks that its headers and libraries belong together, and compiles the shim against it.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::{Command, exit},
};

/// Lowest and highest release (major, minor) whose API the shim is written for.
const SUPPORTED: [(u32, u32); 2] = [(0, 66), (0, 67)];
/// Releases that the tests have run on.
const TESTED: [&str; 2] = ["0.66.0", "0.67.0"];

const LIBRARIES: [&str; 3] = ["_ttnncpp.so", "libtt_metal.so", "libtt_stl.so"];

/// Headers of others that TTNN's own headers include, and where each comes from.
const THIRD_PARTY: [(&str, &str); 8] = [
    ("umd/device/types/arch.hpp", "tt-umd at the commit of TTNN's submodule tt_metal/third_party/umd (device/api)"),
    ("fmt/base.h", "fmt 11 or later (include)"),
    ("spdlog/spdlog.h", "spdlog 1.15 or later (Debian sid: libspdlog-dev)"),
    ("nlohmann/json.hpp", "nlohmann-json 3.11 or later (Debian: nlohmann-json3-dev)"),
    ("enchantum/enchantum.hpp", "enchantum at the commit of TTNN's tt_stl (enchantum/include)"),
    ("tt-logger/tt-logger.hpp", "tt-logger (include)"),
    ("reflect", "reflect: the one file of boost-ext/reflect"),
    ("tracy/Tracy.hpp", "tracy at the commit of TTNN's submodule tt_metal/third_party/tracy (public)"),
];

/// A TTNN to build against.
struct Ttnn {
    version: Version,
    includes: Vec<PathBuf>,
    libraries: PathBuf,
    /// Where TTNN finds its kernels at run time.
    runtime_root: PathBuf,
}

/// Entry point of the build script for the feature `ttnn`.
pub fn build() {
    println!("cargo::rerun-if-changed=build_ttnn.rs");
    println!("cargo::rerun-if-changed=src/backend/ttnn/shim.h");
    println!("cargo::rerun-if-changed=src/backend/ttnn/shim.cc");
    println!("cargo::rerun-if-changed=src/backend/ttnn/shim.rs");
    for variable in ["TT_METAL_INSTALL_DIR", "TT_METAL_HOME", "TTNN_LIB_DIR", "TTNN_INCLUDE_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let ttnn = find().and_then(check).unwrap_or_else(|error| {
        for line in error.lines() {
            println!("cargo::error={line}");
        }
        exit(1);
    });
    println!("cargo::rustc-env=PI0_TT_TTNN_VERSION={}", ttnn.version);
    println!("cargo::rustc-env=PI0_TT_TTNN_RUNTIME_ROOT={}", ttnn.runtime_root.display());
    compile(&ttnn);
    link(&ttnn);
}

/// The first of: an installed prefix, a built source tree, headers of a tag with libraries from elsewhere.
fn find() -> Result<Ttnn, String> {
    let given = env::var_os("TT_METAL_INSTALL_DIR").map(PathBuf::from);
    let prefixes = given.iter().cloned().chain(["/usr".into(), "/usr/local".into()]);
    for prefix in prefixes {
        if prefix.join("include/ttnn/device.hpp").is_file() {
            return installed(&prefix);
        }
    }
    if let Some(prefix) = given {
        return Err(format!(
            "TT_METAL_INSTALL_DIR={0}: no {0}/include/ttnn/device.hpp. Install tt-metalium-dev and tt-nn-dev there, or unset it",
            prefix.display()
        ));
    }
    let Some(home) = env::var_os("TT_METAL_HOME").map(PathBuf::from) else {
        return Err("The feature `ttnn` needs the C++ headers and libraries of TTNN 0.66 or 0.67, one of:\n\
             - Tenstorrent's packages tt-metalium-dev and tt-nn-dev, in /usr, /usr/local or TT_METAL_INSTALL_DIR;\n\
             - a built source tree of tt-metal in TT_METAL_HOME (git clone --recurse-submodules, ./build_metal.sh);\n\
             - a source tree of tt-metal that is not built, in TT_METAL_HOME, and the libraries of the same version from the Python \
             wheel in TTNN_LIB_DIR (pip install ttnn==0.66.0; site-packages/ttnn/build/lib)\n\
             See docs/ttnn.md, Building for the card"
            .to_string());
    };
    if !home.join("ttnn/api/ttnn/device.hpp").is_file() {
        return Err(format!(
            "TT_METAL_HOME={0}: no {0}/ttnn/api/ttnn/device.hpp. It has to be a source tree of tt-metal",
            home.display()
        ));
    }
    match env::var_os("TTNN_LIB_DIR").map(PathBuf::from) {
        Some(libraries) => with_wheel(&home, libraries),
        None => source_tree(&home),
    }
}

/// Tenstorrent's packages, or `cmake --install` of a build.
fn installed(prefix: &Path) -> Result<Ttnn, String> {
    let folders = ["lib", "lib64", "lib/x86_64-linux-gnu"].map(|folder| prefix.join(folder));
    let Some(libraries) = folders.iter().find(|folder| folder.join(LIBRARIES[0]).is_file()) else {
        return Err(format!("{}: TTNN's headers are here, but not lib/{}. Install tt-nn", prefix.display(), LIBRARIES[0]));
    };
    let version = |package: &str| {
        let file = libraries.join(format!("cmake/{package}/{package}-config-version.cmake"));
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}. Install {package}-dev", file.display()))?;
        quoted_after(&text, "set(PACKAGE_VERSION ").and_then(Version::parse).ok_or(format!("{}: no version", file.display()))
    };
    let (metal, ttnn) = (version("tt-metalium")?, version("tt-nn")?);
    if metal != ttnn {
        return Err(format!(
            "{}: tt-metalium is {metal} and tt-nn is {ttnn}. Install the same version of both",
            prefix.display()
        ));
    }
    let include = prefix.join("include");
    Ok(Ttnn {
        version: ttnn,
        includes: vec![include.clone(), include.join("metalium-thirdparty")],
        libraries: libraries.clone(),
        runtime_root: prefix.join("libexec/tt-metalium"),
    })
}

/// A source tree with its own build.
fn source_tree(home: &Path) -> Result<Ttnn, String> {
    let libraries = home.join("build/lib");
    if !libraries.join(LIBRARIES[0]).is_file() {
        return Err(format!(
            "TT_METAL_HOME={}: the tree is not built (no build/lib/{}). Run ./build_metal.sh there, or set TTNN_LIB_DIR to the \
             libraries of the Python wheel of the same version (pip install ttnn==0.66.0; site-packages/ttnn/build/lib)",
            home.display(),
            LIBRARIES[0]
        ));
    }
    let mut includes = tree_includes(home);
    // What the build downloaded: <name>/<hash>/{include,<name>/include} or, for reflect, the folder itself.
    for package in folders_of(&home.join(".cpmcache")) {
        let name = package.file_name().unwrap_or_default().to_owned();
        for checkout in folders_of(&package) {
            includes.extend([checkout.join("include"), checkout.join(&name).join("include"), checkout]);
        }
    }
    includes.retain(|folder| folder.is_dir());
    Ok(Ttnn { version: tree_version(home)?, includes, libraries, runtime_root: home.to_path_buf() })
}

/// Headers of a source tree, libraries of the Python wheel.
fn with_wheel(home: &Path, libraries: PathBuf) -> Result<Ttnn, String> {
    let shown = libraries.display();
    if !libraries.join(LIBRARIES[0]).is_file() {
        return Err(format!(
            "TTNN_LIB_DIR={shown}: no {}. It has to be ttnn/build/lib of the installed Python wheel",
            LIBRARIES[0]
        ));
    }
    // site-packages/ttnn/build/lib
    let (Some(root), Some(site_packages)) = (libraries.ancestors().nth(2), libraries.ancestors().nth(3)) else {
        return Err(format!("TTNN_LIB_DIR={shown} is not site-packages/ttnn/build/lib of a Python wheel"));
    };
    let version = folders_of(site_packages).into_iter().find_map(|folder| {
        let name = folder.file_name()?.to_str()?.strip_prefix("ttnn-")?.strip_suffix(".dist-info")?.to_string();
        Version::parse(&name)
    });
    let Some(version) = version else {
        return Err(format!("{}: no ttnn-*.dist-info, so the version of TTNN_LIB_DIR is unknown", site_packages.display()));
    };
    let headers = tree_version(home)?;
    if headers != version {
        return Err(format!(
            "The headers of TT_METAL_HOME are TTNN {headers} and the libraries of TTNN_LIB_DIR are TTNN {version}. C++ needs the same \
             version of both: git checkout v{version} in {}, or pip install ttnn=={headers}",
            home.display()
        ));
    }
    let mut includes = tree_includes(home);
    if let Some(paths) = env::var_os("TTNN_INCLUDE_PATH") {
        includes.extend(env::split_paths(&paths));
    }
    Ok(Ttnn { version, includes, runtime_root: root.to_path_buf(), libraries })
}

/// TTNN's own headers in a source tree, and those of its submodules.
fn tree_includes(home: &Path) -> Vec<PathBuf> {
    [
        "ttnn/api",
        "ttnn/cpp",
        "tt_metal/api",
        "tt_metal/hostdevcommon/api",
        "tt_stl",
        "tt_metal/third_party/umd/device/api",
        "tt_metal/third_party/tracy/public",
    ]
    .map(|folder| home.join(folder))
    .into_iter()
    .filter(|folder| folder.is_dir())
    .collect()
}

/// The tag of a source tree: of its git clone, or as `git archive` and GitHub's tag archives write it down.
fn tree_version(home: &Path) -> Result<Version, String> {
    let archived = fs::read_to_string(home.join("cmake/version.cmake")).ok();
    let archived = archived.as_deref().and_then(|text| quoted_after(text, "set(fallbackVersion ")).and_then(Version::parse);
    let cloned = || {
        // A folder inside of another git clone must not take that clone's version.
        home.join(".git").exists().then_some(())?;
        let output = Command::new("git").arg("-C").arg(home).args(["describe", "--tags", "--match", "v*"]).output().ok()?;
        Version::parse(str::from_utf8(&output.stdout).ok()?.trim())
    };
    archived.or_else(cloned).ok_or_else(|| {
        format!(
            "TT_METAL_HOME={}: its version is unknown. Take a git clone with tags (git fetch --tags) or the archive of a tag",
            home.display()
        )
    })
}

/// Whether the shim can be built against what was found.
fn check(ttnn: Ttnn) -> Result<Ttnn, String> {
    let Version { major, minor, .. } = ttnn.version;
    let [lowest, highest] = SUPPORTED;
    if !(lowest..=highest).contains(&(major, minor)) {
        return Err(format!(
            "TTNN {} was found. This version of pi0_tt is written for TTNN {}.{} to {}.{}",
            ttnn.version, lowest.0, lowest.1, highest.0, highest.1
        ));
    }
    if !TESTED.contains(&ttnn.version.to_string().as_str()) {
        println!("cargo::warning=TTNN {} was never tested with pi0_tt. Tested are {}", ttnn.version, TESTED.join(" and "));
    }
    for library in LIBRARIES {
        if !ttnn.libraries.join(library).is_file() {
            return Err(format!("{}: no {library} beside {}", ttnn.libraries.display(), LIBRARIES[0]));
        }
    }
    let missing: Vec<String> = THIRD_PARTY
        .iter()
        .filter(|(header, _)| !ttnn.includes.iter().any(|folder| folder.join(header).is_file()) && !in_system(header))
        .map(|(header, source)| format!("- {header}: {source}"))
        .collect();
    if !missing.is_empty() {
        return Err(format!(
            "TTNN {} was found, but not these headers that it includes. Add their folders to TTNN_INCLUDE_PATH (with ':' between) or \
             build the source tree, which downloads them:\n{}",
            ttnn.version,
            missing.join("\n")
        ));
    }
    Ok(ttnn)
}

fn in_system(header: &str) -> bool {
    ["/usr/include", "/usr/local/include"].iter().any(|folder| Path::new(folder).join(header).is_file())
}

fn compile(ttnn: &Ttnn) {
    let mut build = cxx_build::bridge("src/backend/ttnn/shim.rs");
    build.file("src/backend/ttnn/shim.cc").std("c++20");
    // As TTNN itself is compiled.
    build.define("FMT_HEADER_ONLY", "1").define("SPDLOG_FMT_EXTERNAL", None);
    for folder in &ttnn.includes {
        // System folders: warnings of others' headers are not ours. /usr/include itself must stay where the compiler has it.
        if folder != Path::new("/usr/include") {
            build.flag("-isystem").flag(folder);
        }
    }
    build.compile("pi0_tt_ttnn_shim");
}

fn link(ttnn: &Ttnn) {
    let folder = ttnn.libraries.display();
    for library in LIBRARIES {
        // By path: `_ttnncpp.so` has no `lib` before its name.
        println!("cargo::rustc-link-arg={folder}/{library}");
    }
    println!("cargo::rustc-link-arg=-Wl,-rpath,{folder}");
    // The wheel's libraries find those that they need themselves (ttnn.libs) by their own run path, which the linker does not follow.
    println!("cargo::rustc-link-arg=-Wl,--allow-shlib-undefined");
}

fn folders_of(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// The text in quotes right after `key`.
fn quoted_after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split_once(key)?.1.strip_prefix('"')?.split('"').next()
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// `0.66.0` or `v0.66.0`. What follows a `-` or a `+` is refused: between two tags the API may be neither one's.
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.strip_prefix('v').unwrap_or(text).split('.').map(|part| part.parse().ok());
        let version = Self { major: numbers.next()??, minor: numbers.next()??, patch: numbers.next()?? };
        numbers.next().is_none().then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}
