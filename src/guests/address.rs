//! The name of a hub's socket: `@name` in the kernel's abstract namespace, or a path.

use std::fmt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::UnixAddr;

use crate::error::AddressError;

/// Bytes that the kernel has for a name; one is the abstract namespace's, or the path's NUL.
const ROOM: usize = 108;

/// A name that can be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address(String);

impl Address {
    pub fn parse(name: &str) -> Result<Self, AddressError> {
        let (len, max) = (name.len(), ROOM - 1);
        let is_abstract = name.starts_with('@');
        if name.contains('\0') || name == "@" || !(is_abstract || name.contains('/')) {
            return Err(AddressError::Form);
        }
        if len > max {
            return Err(AddressError::TooLong { len, max });
        }
        Ok(Self(name.to_owned()))
    }

    /// An abstract name that nobody can guess.
    pub fn random() -> Result<Self, Errno> {
        let mut bytes = [0u8; 8];
        // SAFETY: fills 8 bytes of a live local.
        let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        if n != bytes.len() as isize {
            return Err(Errno::last());
        }
        let (pid, random) = (std::process::id(), u64::from_le_bytes(bytes));
        Ok(Self(format!("@corecast-{pid}-{random:016x}")))
    }

    /// The file of a path; None for an abstract name.
    pub fn path(&self) -> Option<&Path> {
        (!self.0.starts_with('@')).then(|| Path::new(&self.0))
    }

    pub fn to_unix(&self) -> nix::Result<UnixAddr> {
        match self.0.strip_prefix('@') {
            Some(name) => UnixAddr::new_abstract(name.as_bytes()),
            None => UnixAddr::new(self.0.as_str()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_abstract_or_paths() {
        for name in ["@a", "@a/b", "/tmp/a", "./a"] {
            let address = Address::parse(name).expect(name);
            assert_eq!(address.to_string(), name);
            assert_eq!(address.path().is_none(), name.starts_with('@'));
            address.to_unix().expect(name);
        }
        for name in ["", "@", "plain", "/a\0b"] {
            assert_eq!(Address::parse(name), Err(AddressError::Form), "{name:?}");
        }
    }

    #[test]
    fn the_longest_name_fits_and_one_more_byte_does_not() {
        for start in ["@", "/"] {
            let longest = format!("{start}{}", "x".repeat(106));
            let fits = Address::parse(&longest).expect("fits");
            fits.to_unix().expect("the kernel takes it");
            let (len, max) = (108, 107);
            let more = Address::parse(&format!("{longest}x"));
            assert_eq!(more, Err(AddressError::TooLong { len, max }));
        }
    }

    #[test]
    fn random_names_differ() {
        let names = [(); 2].map(|()| Address::random().expect("random bytes").to_string());
        assert_ne!(names[0], names[1]);
        assert!(Address::parse(&names[0]).is_ok());
    }
}
