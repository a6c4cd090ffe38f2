//! Run path of the ROS libraries, for installations that set no loader variables of their own (see tools/setup_ros.sh), and with the
//! feature `ttnn` the C++ shim to TTNN.

#[cfg(feature = "ttnn")]
#[path = "build_ttnn.rs"]
mod ttnn;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PI0_TT_RPATH");
    if let (Some(_), Ok(rpath)) = (std::env::var_os("CARGO_FEATURE_ROS"), std::env::var("PI0_TT_RPATH")) {
        // DT_RPATH, not DT_RUNPATH: it must also hold for the libraries that the ROS libraries load themselves.
        println!("cargo::rustc-link-arg=-Wl,--disable-new-dtags,-rpath,{rpath}");
    }
    #[cfg(feature = "ttnn")]
    ttnn::build();
}
