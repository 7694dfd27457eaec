//! The region as bytes: found in this process's own mappings, copied, compared and put back, page
//! by page as far as memory has been touched.

/// Bytes of a page.
const PAGE: usize = 4096;

/// A copy of all shared memory of the hub.
pub struct Image {
    /// Mappings: (first byte, pages).
    maps: Vec<(usize, usize)>,
    /// Addresses of the pages that are backed by memory.
    live: Vec<usize>,
    is_live: Vec<bool>,
    bytes: Vec<u8>,
    residency: Vec<u8>,
}

impl Image {
    /// A copy of the writable mappings whose name starts with `/memfd:corecast`.
    pub fn new() -> Self {
        let maps = mappings();
        assert!(!maps.is_empty(), "a hub's region is mapped");
        let pages = maps.iter().map(|m| m.1).sum();
        let mut image = Self {
            maps,
            live: Vec::new(),
            is_live: vec![false; pages],
            bytes: Vec::new(),
            residency: vec![0; pages],
        };
        image.take();
        image
    }

    /// Makes this a copy of the region as it is now.
    pub fn take(&mut self) {
        self.look_for_new();
        for (&page, copy) in self.live.iter().zip(self.bytes.chunks_exact_mut(PAGE)) {
            copy.copy_from_slice(page_at(page));
        }
    }

    /// Takes over what has changed; true when something has.
    pub fn update(&mut self) -> bool {
        let mut changed = self.look_for_new();
        for (&page, copy) in self.live.iter().zip(self.bytes.chunks_exact_mut(PAGE)) {
            let now = page_at(page);
            if copy != now {
                copy.copy_from_slice(now);
                changed = true;
            }
        }
        changed
    }

    /// Makes the region what it was.
    pub fn put_back(&mut self) {
        // Touched since: it was zero.
        self.look_for_new();
        for (&page, copy) in self.live.iter().zip(self.bytes.chunks_exact(PAGE)) {
            // SAFETY: a mapped, writable page; everybody else who could use it is stopped.
            unsafe { std::ptr::copy_nonoverlapping(copy.as_ptr(), page as *mut u8, PAGE) };
        }
    }

    /// Where `bytes` are in the region as it is now, if anywhere: the first byte's address.
    pub fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        self.take();
        let mut pages = self.live.clone();
        pages.sort_unstable();
        pages.into_iter().find_map(|page| {
            let found = page_at(page).windows(bytes.len()).position(|w| w == bytes);
            found.map(|at| page + at)
        })
    }

    /// Finds pages that have got memory since the last look: in the copy they are zero.
    fn look_for_new(&mut self) -> bool {
        let (mut first, before) = (0, self.live.len());
        for &(start, pages) in &self.maps {
            let seen = &mut self.residency[first..first + pages];
            // SAFETY: a mapped range, and one byte of result for each of its pages.
            let ok = unsafe { libc::mincore(start as *mut _, pages * PAGE, seen.as_mut_ptr()) };
            assert_eq!(ok, 0, "mincore");
            for (i, _) in seen.iter().enumerate().filter(|(_, r)| **r & 1 != 0) {
                if !std::mem::replace(&mut self.is_live[first + i], true) {
                    self.live.push(start + i * PAGE);
                    self.bytes.resize(self.live.len() * PAGE, 0);
                }
            }
            first += pages;
        }
        self.live.len() > before
    }
}

fn page_at<'a>(page: usize) -> &'a [u8] {
    // SAFETY: a mapped page of the region; whoever else could write it is stopped while we look.
    unsafe { std::slice::from_raw_parts(page as *const u8, PAGE) }
}

fn mappings() -> Vec<(usize, usize)> {
    let text = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    let ours = text.lines().filter(|l| l.contains("/memfd:corecast"));
    ours.filter_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let [start, end] = [start, end].map(|hex| usize::from_str_radix(hex, 16).ok());
        (rest.as_bytes().get(1) == Some(&b'w')).then_some((start?, (end? - start?) / PAGE))
    })
    .collect()
}
