//! Run path of the ROS libraries, for installations that set no loader variables of their own (see tools/build.sh).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PI0_TT_R2R_RPATH");
    if let Ok(rpath) = std::env::var("PI0_TT_R2R_RPATH") {
        // DT_RPATH, not DT_RUNPATH: it must also hold for the libraries that the ROS libraries load themselves.
        println!("cargo::rustc-link-arg=-Wl,--disable-new-dtags,-rpath,{rpath}");
    }
}
