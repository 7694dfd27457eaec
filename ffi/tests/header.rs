//! `include/corecast.h` is what cbindgen makes of `ffi/src` (`make header` writes it).

use std::path::Path;

fn generate() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml");
    let bindings = cbindgen::Builder::new()
        .with_crate(root)
        .with_config(config)
        .generate()
        .expect("cbindgen reads ffi/src");
    let mut header = Vec::new();
    bindings.write(&mut header);
    String::from_utf8(header).expect("a header in UTF-8")
}

#[test]
fn committed_header_is_what_the_sources_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include/corecast.h");
    let generated = generate();
    if std::env::var_os("CORECAST_WRITE_HEADER").is_some() {
        std::fs::write(&path, &generated).expect("include/corecast.h is writable");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if let Some((line, (old, new))) = first_difference(&committed, &generated) {
        panic!(
            "include/corecast.h is not what ffi/src says: run `make header` and commit it.\n\
             line {line}\n  committed: {old}\n  generated: {new}"
        );
    }
}

/// The number of the first line that differs, and both forms of it.
fn first_difference<'a>(a: &'a str, b: &'a str) -> Option<(usize, (&'a str, &'a str))> {
    if a == b {
        return None;
    }
    let lines = a.lines().count().max(b.lines().count());
    let line = |text: &'a str, i: usize| text.lines().nth(i).unwrap_or("(end)");
    (0..=lines)
        .map(|i| (i + 1, (line(a, i), line(b, i))))
        .find(|(_, (a, b))| a != b)
}
