//! Hands the compiler's version to the report.

use std::process::Command;

fn main() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_string());
    let output = Command::new(rustc).arg("--version").output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string());
    println!("cargo:rustc-env=NANOCHAT_RUSTC={}", version.unwrap_or_default());
    println!("cargo:rerun-if-changed=build.rs");
}
