//! Finds libzmq where the feature asks for it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "zeromq")]
    if let Err(error) = pkg_config::Config::new()
        .atleast_version("4.3")
        .probe("libzmq")
    {
        panic!("libzmq is needed (Debian: libzmq3-dev pkg-config): {error}");
    }
}
