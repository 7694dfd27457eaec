//! Marks the shared library: its SONAME, and that it stays loaded.

use std::env::var;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    let part = |name: &str| var(format!("CARGO_PKG_VERSION_{name}")).unwrap_or_default();
    // Before 1.0 a minor version may break the ABI: it is part of the name.
    let soname = format!("libcorecast.so.{}.{}", part("MAJOR"), part("MINOR"));
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,{soname}");
    // A thread that used the library may end after dlclose: its thread-local
    // state and the master thread's code have to be there still.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
