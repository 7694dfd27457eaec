//! Configurations that cannot be, or that this process or machine has not enough for.

use corecast::{Config, ConfigError, Core, CreateError, Hub};
use nix::sys::resource::{Resource, setrlimit};

use super::common::{alone, fork, open_fds};
use super::{region, says};

#[test]
fn wrong_configurations_are_refused_with_field_value_and_limit() {
    let _alone = alone();
    type Edit = fn(&mut Config);
    let cases: [(Edit, &[&str]); 17] = [
        (|c| c.workers = 0, &["workers is 0", "at least 1"]),
        (|c| c.cores = 0, &["cores is 0"]),
        (|c| c.channels = 0, &["channels is 0"]),
        (|c| c.lane_bytes = 0, &["lane_bytes is 0"]),
        (|c| c.queue_bytes = 0, &["queue_bytes is 0"]),
        (|c| c.max_message = 0, &["max_message is 0"]),
        (
            |c| c.workers = 4033,
            &["workers * cores + extra", "at most 4032"],
        ),
        (|c| c.extra = u32::MAX, &["4294967299", "at most 4032"]),
        (|c| (c.workers, c.cores) = (1 << 31, 2), &["at most 4032"]),
        (
            |c| (c.workers, c.cores) = (u32::MAX, u32::MAX),
            &["at most 4032"],
        ),
        (
            |c| c.channels = 1_000_001,
            &["channels is 1000001", "at most 1000000"],
        ),
        (
            |c| c.max_message = usize::MAX,
            &["max_message", "18446744073709551615"],
        ),
        (
            |c| c.max_message = (1 << 30) + 1,
            &["1073741825", "at most 1073741824"],
        ),
        (
            |c| c.lane_bytes = usize::MAX,
            &["lane_bytes", "18446744073709551615"],
        ),
        (
            |c| c.queue_bytes = usize::MAX,
            &["queue_bytes", "18446744073709551615"],
        ),
        (
            |c| c.lane_bytes = 4095,
            &["lane_bytes is 4095", "at least 4096"],
        ),
        (
            |c| c.queue_bytes = 4095,
            &["queue_bytes is 4095", "at least 4096"],
        ),
    ];
    let before = (open_fds(), region::mappings());
    for (edit, parts) in cases {
        let mut config = Config::default();
        edit(&mut config);
        let error = Hub::create(&config).expect_err("refused");
        says(&error, parts);
        let CreateError::Config(inner) = error else {
            panic!("{error:?}");
        };
        assert_eq!(config.requirements(), Err(inner));
        assert!(!matches!(inner, ConfigError::Zero { .. }) || parts[0].contains("is 0"));
    }
    assert_eq!((open_fds(), region::mappings()), before);
}

#[test]
fn a_hub_that_needs_more_descriptors_than_allowed_is_refused() {
    let _alone = alone();
    let config = Hub::builder().workers(100).config().clone();
    fork(|| {
        setrlimit(Resource::RLIMIT_NOFILE, 100, 100).expect("setrlimit");
        let before = (open_fds(), region::mappings());
        let error = Hub::create(&config).expect_err("refused");
        let CreateError::Fds { need, available } = error else {
            panic!("{error:?}");
        };
        assert_eq!(need, config.requirements().expect("valid").fds.into());
        assert!(available < 100);
        says(&error, &[&need.to_string(), &available.to_string()]);
        assert_eq!((open_fds(), region::mappings()), before);
        Hub::builder().workers(4).create().expect("a smaller one");
    })
    .join();
}

#[test]
fn a_hub_makes_no_more_descriptors_than_it_says() {
    let _alone = alone();
    let hub = Hub::builder().workers(8).cores(2).extra(3);
    let (need, before) = (hub.config().requirements().expect("valid").fds, open_fds());
    let hub = hub.create().expect("a hub");
    let master = hub.start().expect("a master");
    let cores: Vec<Core> = std::iter::from_fn(|| hub.attach_any().ok()).collect();
    assert_eq!(cores.len(), 19);
    assert!(open_fds() - before <= need as usize);
    drop(cores);
    master.stop().expect("stopped");
    drop(hub);
    assert_eq!(open_fds(), before, "and leaves none behind");
}

#[test]
fn a_hub_that_needs_more_memory_than_there_is_is_refused() {
    let _alone = alone();
    let mut config = Hub::builder().workers(1000).config().clone();
    config.max_message = 1 << 30;
    let need = config.requirements().expect("valid").bytes;
    let refused = |config: &Config| {
        let before = (open_fds(), region::mappings());
        let error = Hub::create(config).expect_err("refused");
        let CreateError::Memory {
            need: told,
            available,
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(told, need);
        says(&error, &[&need.to_string(), &available.to_string()]);
        assert_eq!((open_fds(), region::mappings()), before);
    };
    config.populate = true;
    refused(&config); // terabytes
    config.populate = false;
    fork(|| {
        let limit = 4 << 30;
        setrlimit(Resource::RLIMIT_AS, limit, limit).expect("setrlimit");
        refused(&config);
        Hub::builder().workers(1).create().expect("a smaller one");
    })
    .join();
}

/// Shared memory that a hub takes when it is made, in percent of what it says that it needs.
fn taken(populate: bool) -> u64 {
    let builder = Hub::builder().workers(16).max_message(4 << 20);
    let need = builder.config().requirements().expect("valid").bytes;
    let before = region::shared_memory();
    let _hub = builder.populate(populate).create().expect("a hub");
    100 * region::shared_memory().saturating_sub(before) / need
}

#[test]
fn a_populated_hub_takes_at_once_what_it_says_and_others_do_not() {
    let _alone = alone();
    // The figure is of the whole machine, so others may disturb it; not each time.
    assert!((0..10).any(|_| taken(true) >= 80));
    assert!((0..10).any(|_| taken(false) <= 20));
}
