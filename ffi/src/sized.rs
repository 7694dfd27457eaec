//! Public structs that begin with their size, so that they may grow.
//!
//! The caller sets `size` to its own sizeof. A caller compiled against an older
//! header has a shorter struct: nothing beyond it is read or written. One
//! compiled against a newer header has a longer struct: what this library does
//! not know must be zero on the way in and is left alone on the way out.

use crate::error::Failure;

/// No struct of any version is this long: a larger `size` is garbage.
const SIZE_LIMIT: usize = 4096;

/// A `repr(C)` struct of plain integers and pointers whose first field is `size`,
/// a usize, and for which any bytes are a value.
///
/// # Safety
/// The implementor is such a struct.
pub(crate) unsafe trait SizedStruct: Copy {
    /// Its C name, for error texts.
    const NAME: &'static str;
    /// Its size in the first version that had it: no caller has a shorter one.
    const FIRST: usize;
}

/// The checked `size` of a struct in the caller's memory.
///
/// # Safety
/// `at` is NULL, or readable for a usize.
#[inline]
pub(crate) unsafe fn claimed<T: SizedStruct>(at: *const T) -> Result<usize, Failure> {
    if at.is_null() {
        return Err(Failure::Null(T::NAME));
    }
    // SAFETY: not NULL, so readable for a usize (contract); alignment is not assumed.
    let size = unsafe { at.cast::<usize>().read_unaligned() };
    if (T::FIRST..=SIZE_LIMIT).contains(&size) {
        Ok(size)
    } else {
        Err(Failure::Size {
            of: T::NAME,
            size,
            known: size_of::<T>(),
        })
    }
}

/// Reads a struct of the caller over `defaults`, which stand for the fields that
/// a shorter, older struct lacks.
///
/// # Safety
/// `at` is NULL, or readable for a usize, and for as many bytes as that says.
pub(crate) unsafe fn read<T: SizedStruct>(at: *const T, defaults: T) -> Result<T, Failure> {
    // SAFETY: the caller's contract.
    let size = unsafe { claimed(at)? };
    let known = size_of::<T>();
    // SAFETY: readable for `size` bytes (contract), of which `claimed` allows 4096 at most.
    let bytes = unsafe { std::slice::from_raw_parts(at.cast::<u8>(), size) };
    if bytes.iter().skip(known).any(|&byte| byte != 0) {
        return Err(Failure::Size {
            of: T::NAME,
            size,
            known,
        });
    }
    let mut value = defaults;
    // SAFETY: both sides hold min(size, known) bytes, and any bytes are a T (trait's contract).
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut value).cast(), size.min(known));
    }
    Ok(value)
}

/// Checks the struct that a later [`write`] will fill.
///
/// # Safety
/// `at` is NULL, or readable for a usize.
#[inline]
pub(crate) unsafe fn check<T: SizedStruct>(at: *const T) -> Result<(), Failure> {
    // SAFETY: the caller's contract.
    unsafe { claimed(at) }.map(|_| ())
}

/// Fills the caller's struct as far as both know it, and leaves its `size` alone.
///
/// # Safety
/// `at` is NULL, or readable for a usize, and writable for as many bytes as that says.
pub(crate) unsafe fn write<T: SizedStruct>(at: *mut T, value: &T) -> Result<(), Failure> {
    // SAFETY: the caller's contract.
    let size = unsafe { claimed(at)? };
    let start = size_of::<usize>();
    let len = size.min(size_of::<T>()) - start;
    // SAFETY: start + len <= size, writable (contract), and <= size_of::<T>(), readable.
    unsafe {
        let from = std::ptr::from_ref(value).cast::<u8>().add(start);
        std::ptr::copy_nonoverlapping(from, at.cast::<u8>().add(start), len);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ChannelE;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Pair {
        size: usize,
        a: u64,
        b: u64,
    }

    // SAFETY: plain integers, repr(C), size first.
    unsafe impl SizedStruct for Pair {
        const NAME: &'static str = "pair_t";
        const FIRST: usize = 16;
    }

    const DEFAULTS: Pair = Pair {
        size: 24,
        a: 1,
        b: 2,
    };

    fn read_words(words: &[u64; 4]) -> Result<Pair, ChannelE> {
        // SAFETY: no test claims more than the 32 bytes there are, but for sizes refused unread.
        unsafe { read(words.as_ptr().cast(), DEFAULTS) }.map_err(|e| e.code())
    }

    #[test]
    fn an_older_caller_gets_defaults_for_what_it_lacks() {
        assert_eq!(
            read_words(&[16, 7, 9, 9]),
            Ok(Pair {
                size: 16,
                a: 7,
                b: 2
            })
        );
    }

    #[test]
    fn a_newer_caller_must_leave_the_unknown_zero() {
        assert_eq!(
            read_words(&[32, 7, 8, 0]),
            Ok(Pair {
                size: 32,
                a: 7,
                b: 8
            })
        );
        assert_eq!(read_words(&[32, 7, 8, 1]), Err(ChannelE::Size));
    }

    #[test]
    fn sizes_that_no_version_had_are_refused() {
        for size in [0, 8, 15, 4097, u64::MAX] {
            assert_eq!(read_words(&[size, 0, 0, 0]), Err(ChannelE::Size));
        }
    }

    #[test]
    fn writing_stops_at_the_callers_size() {
        let mut words = [16u64, 0, 55, 66];
        // SAFETY: 16 bytes are claimed, 32 are there.
        unsafe {
            write(
                words.as_mut_ptr().cast(),
                &Pair {
                    size: 24,
                    a: 7,
                    b: 8,
                },
            )
        }
        .unwrap();
        assert_eq!(words, [16, 7, 55, 66]);
    }
}
