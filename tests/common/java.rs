//! Java programs with the Java client, as Debian packages it (librabbitmq-client-java).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Where Debian keeps jars.
const JARS: &str = "/usr/share/java";
/// The client and what it logs with, which is to say to stderr.
const CLASS_PATH: [&str; 3] = ["amqp-client.jar", "slf4j-api.jar", "slf4j-simple.jar"];

/// A program of the Java sources in this directory, compiled and ready to be run.
///
/// # Panics
/// If the Java client or a JDK is missing, or the sources don't compile.
pub fn program(sources: &Path, class: &str) -> Command {
    let classes = compile(sources);
    let mut command = Command::new("java");
    command
        // These programs live for a second or two: an eager compiler and a parallel collector don't pay off.
        .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"])
        .arg(format!("{}:{}", classes.display(), class_path()))
        .arg(class);
    command
}

fn class_path() -> String {
    for jar in CLASS_PATH {
        let path = Path::new(JARS).join(jar);
        assert!(path.exists(), "{} is missing: tests/run installs it", path.display());
    }
    CLASS_PATH.map(|jar| format!("{JARS}/{jar}")).join(":")
}

/// Compiles the sources unless the very same ones have been compiled before.
fn compile(sources: &Path) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());

    let files = java_files(sources);
    let mut hasher = DefaultHasher::new();
    for file in &files {
        std::fs::read(file).expect("a readable source").hash(&mut hasher);
    }
    let test = std::env::current_exe().expect("the path of this test");
    let profile_dir = test.ancestors().nth(2).expect("a test lies two levels below its profile's directory");
    let classes = profile_dir.join(format!("java-{:016x}", hasher.finish()));
    if classes.exists() {
        return classes;
    }
    // Another test process may be at it too: whoever renames first is the one that counts.
    let fresh = tempfile::tempdir_in(profile_dir).expect("a temporary directory");
    let output = Command::new("javac")
        .args(["-Xlint:all", "-Werror", "-cp", &class_path(), "-d"])
        .arg(fresh.path())
        .args(&files)
        .output()
        .expect("javac can be run: tests/run installs it");
    assert!(output.status.success(), "javac: {}", String::from_utf8_lossy(&output.stderr));
    let fresh = fresh.keep();
    if std::fs::rename(&fresh, &classes).is_err() {
        assert!(classes.exists(), "{} can't be renamed to {}", fresh.display(), classes.display());
        let _ = std::fs::remove_dir_all(&fresh);
    }
    classes
}

fn java_files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("a readable directory").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "java"))
        .collect();
    files.sort();
    files
}
