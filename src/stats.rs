//! Counters of a hub. The router keeps them in its own memory and copies them into the region at
//! the end of each pass; anybody who has the region can read them at any time.

use crate::sync::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// The live counters of a hub, since it was made unless said otherwise.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)+
        }

        /// How many counters there are.
        pub(crate) const COUNTERS: usize = [$(stringify!($name)),+].len();

        impl Stats {
            /// Names and values, in a fixed order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),+].into_iter()
            }

            /// Copies the counters into the region, those that are not as `before`.
            pub(crate) fn store(&self, before: &Self, to: &[AtomicU64; COUNTERS]) {
                let pairs = [$((self.$name, before.$name)),+];
                for (word, (value, before)) in to.iter().zip(pairs) {
                    if value != before {
                        // Relaxed: counters for people; one writer, no order between them promised.
                        word.store(value, Ordering::Relaxed);
                    }
                }
            }

            /// Reads the counters from the region.
            pub(crate) fn load(from: &[AtomicU64; COUNTERS]) -> Self {
                // Relaxed: as in `store`.
                let mut values = from.iter().map(|w| w.load(Ordering::Relaxed));
                Self { $($name: values.next().unwrap_or(0)),+ }
            }
        }
    };
}

/// The place of [`Stats::assisted`] among the counters.
pub(crate) const ASSISTED: usize = 6;

counters! {
    /// Messages routed.
    messages,
    /// Copies of messages put into queues.
    deliveries,
    /// Messages to channels nobody was subscribed to.
    unheard,
    /// Copies lost at full queues.
    lost,
    /// Notifications of cores.
    wakes,
    /// Routing passes that found something.
    passes,
    /// How often a worker did the master's work, see [`crate::Config::assist`].
    assisted,
    /// Subscriptions made.
    joins,
    /// Subscriptions ended.
    leaves,
    /// Channels in use now.
    channels,
    /// Subscriptions now.
    subscriptions,
    /// Cores attached now.
    cores,
    /// Cores cleaned up after their process died.
    reaped,
    /// Cores cut off because their lane was damaged.
    quarantined,
    /// Damage found in what workers wrote.
    violations,
    /// Runs of messages, and large messages, written once for all of their queues: into the arena, or by
    /// their sender into its slab.
    shared,
    /// How often the arena was asked for room and had none, so that queues got copies.
    unshared,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn counters_survive_the_region() {
        let words = std::array::from_fn(|_| AtomicU64::new(0));
        let stats = Stats {
            messages: 7,
            violations: 9,
            ..Stats::default()
        };
        stats.store(&Stats::default(), &words);
        assert_eq!(Stats::load(&words), stats);
        assert_eq!(stats.iter().nth(ASSISTED), Some(("assisted", 0)));
        assert!(stats.iter().any(|counter| counter == ("violations", 9)));
    }
}
