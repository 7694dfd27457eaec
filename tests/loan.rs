//! Messages written in place: sent as they stand, or never there.

mod common;

use std::time::Duration;

use common::{LONG, Watchdog};
use corecast::{Core, Hub, SendError, Timestamps};

fn hub(timestamps: Timestamps) -> Hub {
    let builder = Hub::builder().workers(2).lane_bytes(4096);
    let hub = builder.max_message(3000).timestamps(timestamps).create();
    hub.expect("a hub")
}

fn received(core: &mut Core) -> (Vec<u8>, Vec<u8>, u64) {
    let message = core.recv_timeout(LONG).expect("no loss").expect("in time");
    (
        message.name.to_vec(),
        message.body.to_vec(),
        message.timestamp,
    )
}

#[test]
fn a_loan_arrives_as_it_was_filled_to_a_name_and_to_a_handle() {
    let _watchdog = Watchdog::new(LONG);
    for timestamps in [Timestamps::Off, Timestamps::Batch, Timestamps::Message] {
        let hub = hub(timestamps);
        let master = hub.start().expect("a master");
        let mut to = hub.attach(0, 0).expect("a core");
        let mut from = hub.attach(1, 0).expect("a core");
        to.join("known").expect("joined");
        let channel = from.channel("known").expect("a handle");
        for (n, len) in [0, 1, 16, 100, 1000, 2999, 3000].into_iter().enumerate() {
            let body = vec![n as u8; len];
            let mut loan = from.loan_timeout("known", len, LONG).expect("room");
            assert_eq!(loan.len(), len);
            loan.copy_from_slice(&body);
            loan.send();
            let got = received(&mut to);
            assert_eq!((got.0, &got.1), (b"known".to_vec(), &body));
            assert_eq!(got.2 > 0, timestamps != Timestamps::Off);
            let mut loan = from.loan_to_timeout(channel, len, LONG).expect("room");
            loan.copy_from_slice(&body);
            loan.send();
            assert_eq!(received(&mut to).1, body);
        }
        drop((to, from));
        master.stop().expect("stopped");
    }
}

/// The lane does not know the channel: the name travels along, and the router resolves it.
#[test]
fn a_loan_to_a_name_that_only_the_router_knows_arrives() {
    let _watchdog = Watchdog::new(LONG);
    let hub = hub(Timestamps::Batch);
    let mut master = hub.master().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    core.join_async("new").expect("asked");
    let mut loan = core.loan("new", 5).expect("room");
    loan.copy_from_slice(b"first");
    loan.send();
    core.send("new", b"second").expect("room");
    master.poll(Some(Duration::ZERO)).expect("a pass");
    assert_eq!(received(&mut core).1, b"first");
    assert_eq!(received(&mut core).1, b"second");
}

#[test]
fn a_dropped_loan_was_never_there() {
    let _watchdog = Watchdog::new(LONG);
    let hub = hub(Timestamps::Batch);
    let mut master = hub.master().expect("a master");
    let mut to = hub.attach(0, 0).expect("a core");
    let mut from = hub.attach(1, 0).expect("a core");
    for name in ["a", "b"] {
        let ticket = to.join_async(name).expect("asked");
        master.poll(Some(Duration::ZERO)).expect("a pass");
        to.join_result(ticket).expect("answered").expect("joined");
    }
    let before = hub.stats().messages;
    // More than the lane holds: each gives its room back. The last channel is another each time,
    // so what the lane says of it must be taken back too.
    for n in 0..1000_u32 {
        from.send("a", &n.to_le_bytes()).expect("room");
        from.loan("b", 2000).expect("room").fill(0xee);
        from.send("b", &n.to_le_bytes()).expect("room");
        master.poll(Some(Duration::ZERO)).expect("a pass");
        for name in [b"a", b"b"] {
            let (got, body, _) = received(&mut to);
            assert_eq!((&got[..], &body[..]), (&name[..], &n.to_le_bytes()[..]));
        }
    }
    assert_eq!(hub.stats().messages, before + 2000);
    assert_eq!(hub.stats().violations, 0);
}

/// A loan takes its place where it is sent, not where it was begun.
#[test]
fn a_loan_is_ordered_by_its_sending() {
    let _watchdog = Watchdog::new(LONG);
    let hub = hub(Timestamps::Batch);
    let mut master = hub.master().expect("a master");
    let mut slow = hub.attach(0, 0).expect("a core");
    let mut quick = hub.attach(1, 0).expect("a core");
    let ticket = quick.join_async("room").expect("asked");
    master.poll(Some(Duration::ZERO)).expect("a pass");
    quick
        .join_result(ticket)
        .expect("answered")
        .expect("joined");
    let mut loan = slow.loan("room", 4).expect("room");
    quick.send("room", b"quick").expect("room");
    loan.copy_from_slice(b"slow");
    loan.send();
    master.poll(Some(Duration::ZERO)).expect("a pass");
    assert_eq!(received(&mut quick).1, b"quick");
    assert_eq!(received(&mut quick).1, b"slow");
}

#[test]
fn refusals_leave_the_lane_as_it_was() {
    let _watchdog = Watchdog::new(LONG);
    let hub = hub(Timestamps::Batch);
    let mut master = hub.master().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    let error = core.loan("room", 3001).expect_err("too large");
    assert_eq!(
        error,
        SendError::TooLarge {
            len: 3001,
            max: 3000
        }
    );
    assert!(matches!(core.loan("", 1), Err(SendError::BadName(_))));
    let mut taken = 0;
    while let Ok(loan) = core.loan("room", 2000) {
        loan.send();
        taken += 1;
    }
    assert_eq!(core.loan("room", 2000).expect_err("full"), SendError::Full);
    let waited = core.loan_timeout("room", 2000, Duration::from_millis(1));
    assert_eq!(waited.expect_err("nobody routes"), SendError::Timeout);
    master.poll(Some(Duration::ZERO)).expect("a pass");
    assert_eq!(hub.stats().unheard, taken);
    core.loan("room", 2000).expect("room again").send();
}
