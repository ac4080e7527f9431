//! Where the broker's binary is.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The path of the `leveret` binary: `LEVERET_BIN` if it is set, else the one of this build, brought up to date first.
///
/// # Panics
/// If the broker doesn't build.
pub fn binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(find_or_build).clone()
}

fn find_or_build() -> PathBuf {
    if let Some(path) = std::env::var_os("LEVERET_BIN") {
        return path.into();
    }
    // A test runs as PROFILE_DIR/deps/NAME; binaries lie in PROFILE_DIR.
    let test = std::env::current_exe().expect("the path of this test");
    let profile_dir = test.ancestors().nth(2).expect("a test lies two levels below its profile's directory");
    let target_dir = profile_dir.parent().expect("a profile's directory lies in the target directory");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .args(["build", "--quiet", "-p", "leveret", "--bin", "leveret", "--target-dir"])
        .arg(target_dir)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile_dir.ends_with("release") {
        build.arg("--release");
    }
    let status = build.status().expect("cargo can be run");
    assert!(status.success(), "the broker doesn't build: {status}");
    profile_dir.join("leveret")
}
