//! The API in one process: threads as cores, and a master driven by the test.

use std::time::Duration;

use corecast::{
    Config, Core, Hub, JoinError, LeaveError, MIN_BUFFER, NameError, RecvError, SendError,
};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_message_reaches_every_subscriber_and_its_sender() {
    let hub = Hub::builder().workers(3).create().expect("a hub");
    let _master = hub.start().expect("a master");
    let mut cores: Vec<_> = (0..3).map(|w| hub.attach(w, 0).expect("a core")).collect();
    for core in &mut cores[..2] {
        core.join("news").expect("joined");
    }
    cores[0].send("news", b"hello").expect("sent");
    cores[2].send("news", b"").expect("sent");
    for core in &mut cores[..2] {
        let first = core.recv_timeout(SOON).expect("ok").expect("a message");
        assert_eq!((first.name, first.body), (&b"news"[..], &b"hello"[..]));
        assert_eq!((first.sender.worker, first.sender.core), (0, 0));
        assert!(first.timestamp > 1_500_000_000_000_000_000);
        let ticket = first.ticket;
        let second = core.recv_timeout(SOON).expect("ok").expect("a message");
        assert_eq!((second.body, second.sender.worker), (&b""[..], 2));
        assert!(second.ticket > ticket);
    }
    assert_eq!(cores[2].recv(), Ok(None));
    let stats = hub.stats();
    assert_eq!((stats.messages, stats.deliveries, stats.cores), (2, 4, 3));
}

fn is_routed(core: &Core) -> bool {
    core.routed_position() == core.position()
}

#[test]
fn a_core_can_tell_when_what_it_has_sent_is_in_the_queues() {
    let hub = Hub::builder().workers(2).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let (mut a, mut b) = (hub.attach(0, 0).expect("a"), hub.attach(1, 0).expect("b"));
    while !(is_routed(&a) && is_routed(&b)) {
        master.step();
    }
    let ticket = b.join_async("news").expect("asked");
    assert!(!is_routed(&b));
    master.step();
    assert!(matches!(b.join_result(ticket), Some(Ok(_))));
    // Over the end of the window too, where the lane begins anew.
    for _ in 0..600 {
        a.send("news", &[1; 1000]).expect("sent");
        assert!(!is_routed(&a));
        master.step();
        assert!(is_routed(&a));
        assert!(b.recv().expect("nothing is lost").is_some());
    }
}

#[test]
fn a_large_message_arrives_whole() {
    let hub = Hub::builder().workers(2).create().expect("a hub");
    let _master = hub.start().expect("a master");
    let (mut a, mut b) = (hub.attach(0, 0).expect("a"), hub.attach(1, 0).expect("b"));
    b.join("big").expect("joined");
    let max = hub.config().max_message;
    for len in [0, 1, 15, 1008, 1009, 1024, 65_536, max] {
        let body: Vec<u8> = (0..len).map(|i| (i * 7 + len) as u8).collect();
        a.send_timeout("big", &body, SOON).expect("sent");
        let got = b.recv_timeout(SOON).expect("ok").expect("a message");
        assert!(got.body == body, "{len} bytes");
    }
    let over = vec![0; max + 1];
    assert_eq!(
        a.send("big", &over),
        Err(SendError::TooLarge { len: max + 1, max })
    );
}

#[test]
fn many_are_received_with_one_call_and_what_is_not_taken_stays() {
    let hub = Hub::builder().workers(3).create().expect("a hub");
    let _master = hub.start().expect("a master");
    let mut cores: Vec<_> = (0..3).map(|w| hub.attach(w, 0).expect("a core")).collect();
    let mut there = cores.pop().expect("the third");
    assert!(there.recv_many().expect("ok").is_none());
    there.join("a").expect("joined");
    there.join("b").expect("joined");
    for n in 0..100_u32 {
        let name = if n % 7 < 4 { "a" } else { "b" };
        let body = n.to_le_bytes().repeat(1 + n as usize % 40);
        cores[n as usize % 3 % 2].send(name, &body).expect("sent");
    }
    let mut next = 0;
    while next < 100 {
        let Some(messages) = there.recv_many().expect("nothing lost") else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        // Collected first: they stay valid together. Seven at most: the others stay.
        let together: Vec<_> = messages.take(7).collect();
        assert!(!together.is_empty());
        for message in together {
            let name = if next % 7 < 4 { "a" } else { "b" };
            assert_eq!(message.name, name.as_bytes());
            assert_eq!(message.sender.worker, next % 3 % 2);
            assert_eq!(
                message.body,
                next.to_le_bytes().repeat(1 + next as usize % 40)
            );
            next += 1;
        }
        // One by one between the batches.
        if let Some(message) = there.recv().expect("nothing lost") {
            assert_eq!(message.body[..4], next.to_le_bytes());
            next += 1;
        }
    }
    assert!(there.recv_many().expect("ok").is_none());
}

#[test]
fn many_end_in_front_of_a_loss_and_before_what_was_left() {
    let mut config = Config::default();
    (config.workers, config.queue_bytes) = (1, MIN_BUFFER);
    let hub = Hub::create(&config).expect("a hub");
    let mut master = hub.master().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    core.join_async("a").expect("asked");
    master.poll(Some(Duration::ZERO)).expect("a pass");
    let mut sent = 0_u32;
    while hub.stats().lost == 0 {
        core.send("a", &sent.to_le_bytes()).expect("room");
        master.poll(Some(Duration::ZERO)).expect("a pass");
        sent += 1;
    }
    let mut got = Vec::new();
    let mut take = |core: &mut Core| match core.recv_many() {
        Ok(Some(messages)) => {
            got.extend(messages.map(|m| u32::from_le_bytes(m.body.try_into().expect("four"))));
            true
        }
        Ok(None) => false,
        Err(error) => {
            assert_eq!(error, RecvError::Lagged(1));
            got.push(sent - 1);
            true
        }
    };
    while take(&mut core) || master.poll(Some(Duration::ZERO)) != Ok(0) {}
    core.send("a", &sent.to_le_bytes()).expect("room");
    master.poll(Some(Duration::ZERO)).expect("a pass");
    while take(&mut core) {}
    assert_eq!(got, (0..=sent).collect::<Vec<_>>(), "the loss at its place");
    core.send("a", b"late").expect("room");
    core.leave("a").expect("left");
    master.poll(Some(Duration::ZERO)).expect("a pass");
    assert!(core.recv_many().expect("ok").is_none());
}

#[test]
fn a_host_can_drive_the_master_itself() {
    let hub = Hub::builder().workers(1).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    assert!(hub.master().is_err(), "only one at a time");
    let mut core = hub.attach(0, 0).expect("a core");
    let ticket = core.join_async("self").expect("asked");
    assert_eq!(core.join_result(ticket), None);
    assert_eq!(master.poll(Some(Duration::ZERO)), Ok(0));
    assert!(core.join_result(ticket).expect("answered").is_ok());
    core.send("self", b"1").expect("sent");
    assert_eq!(master.poll(Some(SOON)), Ok(1));
    assert_eq!(core.recv().expect("ok").expect("a message").body, b"1");
    assert_eq!(core.recv(), Ok(None));
    drop(master);
    assert_eq!(core.send("self", b"2"), Err(SendError::MasterGone));
    assert_eq!(core.recv(), Err(RecvError::MasterGone));
    assert!(hub.master().is_ok(), "the next one may start");
}

/// The descriptor was notified only if the core had armed it with a `recv` before.
#[test]
fn an_asynchronous_join_is_notified_to_a_core_that_has_not_yet_received() {
    use std::os::fd::AsFd;
    let hub = Hub::builder().workers(1).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    let ticket = core.join_async("a").expect("asked");
    master.poll(Some(Duration::ZERO)).expect("polled");
    let mut count = [0; 8];
    assert_eq!(nix::unistd::read(core.as_fd(), &mut count), Ok(8));
    assert!(core.join_result(ticket).expect("answered").is_ok());
}

#[test]
fn what_was_left_is_no_longer_received() {
    let hub = Hub::builder().workers(1).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    for name in ["a", "b"] {
        core.join_async(name).expect("asked");
    }
    master.poll(Some(Duration::ZERO)).expect("polled");
    for name in ["a", "b", "a"] {
        core.send(name, name.as_bytes()).expect("sent");
    }
    master.poll(Some(Duration::ZERO)).expect("polled");
    core.leave("a").expect("left");
    assert_eq!(core.recv().expect("ok").expect("a message").body, b"b");
    assert_eq!(core.recv(), Ok(None));
    core.join_async("a").expect("asked");
    core.send("a", b"again").expect("sent");
    master.poll(Some(Duration::ZERO)).expect("polled");
    assert_eq!(core.recv().expect("ok").expect("a message").body, b"again");
    core.send("a", b"lost").expect("sent");
    core.leave_all().expect("left");
    assert_eq!(core.joined(), 0);
    master.poll(Some(Duration::ZERO)).expect("polled");
    assert_eq!(core.recv(), Ok(None));
    assert_eq!(hub.stats().channels, 0);
}

#[test]
fn a_handle_outlives_all_subscribers_until_closed() {
    let hub = Hub::builder().workers(2).create().expect("a hub");
    let _master = hub.start().expect("a master");
    let (mut a, mut b) = (hub.attach(0, 0).expect("a"), hub.attach(1, 0).expect("b"));
    let channel = a.channel("topic").expect("opened");
    for round in 0..3u8 {
        assert_eq!(b.join("topic").expect("joined"), channel.id());
        a.send_to(channel, &[round]).expect("sent");
        let got = b.recv_timeout(SOON).expect("ok").expect("a message");
        assert_eq!(got.body, [round]);
        b.leave("topic").expect("left");
    }
    a.close(channel).expect("closed");
    assert_eq!(a.close(channel), Err(LeaveError::NotJoined));
    b.join("other").expect("joined"); // a round trip through the router
    a.join("other").expect("joined");
    assert_eq!(a.send_to(channel, b"x"), Err(SendError::StaleChannel));
}

#[test]
fn bad_names_and_limits_are_refused() {
    let hub = Hub::builder()
        .workers(1)
        .channels(2)
        .create()
        .expect("a hub");
    let _master = hub.start().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    assert_eq!(core.join(""), Err(JoinError::BadName(NameError::Empty)));
    assert_eq!(
        core.send("a\0", b""),
        Err(SendError::BadName(NameError::Nul { at: 1 }))
    );
    assert_eq!(core.leave("never"), Err(LeaveError::NotJoined));
    core.join("1").expect("joined");
    core.join("2").expect("joined");
    assert_eq!(core.join("3"), Err(JoinError::TooManyChannels { max: 2 }));
    assert_eq!(core.joined(), 2);
    core.leave("1").expect("left");
    core.join("3").expect("room again");
}

#[test]
fn a_slow_core_learns_what_it_lost_where_it_lost_it() {
    let hub = Hub::builder()
        .workers(1)
        .queue_bytes(4096)
        .create()
        .expect("a hub");
    let mut master = hub.master().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    core.join_async("c").expect("asked");
    for i in 0..200u32 {
        core.send("c", &i.to_le_bytes()).expect("sent");
    }
    master.poll(Some(Duration::ZERO)).expect("polled");
    let mut taken = 0u32;
    let lost = loop {
        match core.recv() {
            Ok(Some(m)) => {
                assert_eq!(m.body, taken.to_le_bytes());
                taken += 1;
            }
            Err(RecvError::Lagged(n)) => break n,
            Ok(None) => {
                master.poll(Some(Duration::ZERO)).expect("polled");
            }
            Err(e) => panic!("{e}"),
        }
    };
    assert_eq!(u64::from(taken) + lost, 200);
    assert!(taken > 50 && lost > 50, "{taken} taken, {lost} lost");
    assert_eq!((core.lost(), hub.stats().lost), (lost, lost));
    core.send("c", b"after").expect("sent");
    master.poll(Some(Duration::ZERO)).expect("polled");
    assert_eq!(core.recv().expect("ok").expect("a message").body, b"after");
}
