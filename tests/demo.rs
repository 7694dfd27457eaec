//! The demo as its users have it: the real program, real worker processes, and
//! pages that talk to it by HTTP.
//!
//! Everything that can hang has a deadline, and each server has a watchdog that
//! ends the test process if a test takes far too long.

#[path = "demo/page.rs"]
mod page;
#[path = "demo/server.rs"]
mod server;

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::Signal;

use page::Page;
use server::{Demo, free_port, get};

/// Two pages on different workers, both in `room`.
fn two_pages(demo: &Demo, room: &str) -> (Page, Page) {
    let mut ann = Page::open(demo, "ann");
    ann.enter(room);
    let mut bob = Page::open_elsewhere(demo, "bob", &[ann.worker]);
    bob.enter(room);
    (ann, bob)
}

#[test]
fn the_page_is_served_whole_and_loads_nothing_from_elsewhere() {
    let demo = Demo::start(&["--workers", "2"]);
    for (path, kind) in [
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/view.js", "text/javascript"),
    ] {
        let (head, body) = get(demo.port, path, "");
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        assert!(
            head.to_lowercase()
                .contains(&format!("content-type: {kind}")),
            "{path}: {head}"
        );
        assert!(head.contains("default-src 'none'"), "{path}: {head}");
        assert!(
            !body.contains("http://") && !body.contains("https://"),
            "{path}"
        );
    }
    assert!(get(demo.port, "/nothing", "").0.starts_with("HTTP/1.1 404"));
    demo.interrupt_and_expect_a_clean_end();
}

#[test]
fn two_pages_on_different_workers_see_the_same_lines_in_the_same_order() {
    let demo = Demo::start(&["--workers", "3"]);
    let (mut ann, mut bob) = two_pages(&demo, "x");
    assert_ne!(ann.pid, bob.pid);
    for page in [&mut ann, &mut bob] {
        page.wait_for_people(&["ann", "bob"]);
    }
    const EACH: usize = 100;
    for n in 0..EACH {
        ann.say(&format!("ann {n}"));
        bob.say(&format!("bob {n}"));
    }
    for page in [&mut ann, &mut bob] {
        page.wait_for_lines(2 * EACH);
    }
    let seen_by_ann = ann.arrived();
    assert_eq!(seen_by_ann, bob.arrived(), "one order for both, as it came");
    for name in ["ann", "bob"] {
        let own: Vec<&str> = seen_by_ann
            .iter()
            .map(|l| l.text.as_str())
            .filter(|t| t.starts_with(name))
            .collect();
        let said: Vec<String> = (0..EACH).map(|n| format!("{name} {n}")).collect();
        assert_eq!(own, said);
    }
    let stats = ann.wait_for_stats(|s| s["messages"].as_u64() >= Some(2 * EACH as u64));
    assert!(
        stats["deliveries"].as_u64() >= Some(4 * EACH as u64),
        "{stats}"
    );
    assert_eq!(
        (stats["cores"].as_u64(), stats["lost"].as_u64()),
        (Some(3), Some(0)),
        "{stats}"
    );
    demo.interrupt_and_expect_a_clean_end();
}

#[test]
fn rooms_are_apart_and_a_newcomer_is_shown_the_last_lines() {
    let demo = Demo::start(&["--workers", "2"]);
    let (mut ann, mut bob) = two_pages(&demo, "x");
    ann.say("one");
    bob.wait_for_lines(1);
    bob.enter("y");
    ann.say("two");
    bob.say("elsewhere");
    assert_eq!(bob.wait_for_lines(1)[0].text, "elsewhere");
    ann.wait_for_people(&["ann"]);
    ann.wait_for_rooms(&[("x", 1), ("y", 1)]);
    bob.enter("x");
    let texts: Vec<String> = bob.wait_for_lines(2).into_iter().map(|l| l.text).collect();
    assert_eq!(texts, ["one", "two"]);
    demo.interrupt_and_expect_a_clean_end();
}

#[test]
fn a_killed_workers_page_comes_back_and_nobody_misses_a_line() {
    let demo = Demo::start(&["--workers", "3"]);
    let (mut ann, mut bob) = two_pages(&demo, "x");
    ann.say("before");
    ann.wait_for_lines(1);
    bob.wait_for_lines(1);
    let (killed_worker, killed_pid) = (ann.worker, ann.pid);

    ann.kill_worker();
    ann.wait_for_end();
    for n in 0..20 {
        bob.say(&format!("meanwhile {n}"));
    }
    ann.reconnect(&demo);
    assert_ne!(ann.pid, killed_pid);
    bob.say("welcome back");
    ann.say("thanks");

    let expected: Vec<String> = std::iter::once("before".to_owned())
        .chain((0..20).map(|n| format!("meanwhile {n}")))
        .collect();
    for page in [&mut ann, &mut bob] {
        let texts: Vec<String> = page
            .wait_for_lines(23)
            .into_iter()
            .map(|l| l.text)
            .collect();
        assert_eq!(texts[..21], expected, "{}", page.id);
        let rest: BTreeSet<&str> = texts[21..].iter().map(String::as_str).collect();
        assert_eq!(
            rest,
            BTreeSet::from(["thanks", "welcome back"]),
            "{}",
            page.id
        );
    }
    assert_eq!(ann.lines(), bob.lines());
    assert!(
        !bob.ended(),
        "the other page's connection is the one it had"
    );
    bob.wait_for_people(&["ann", "bob"]);
    bob.wait_for_worker(killed_worker, |pid| pid != killed_pid);
    bob.wait_for_stats(|s| s["reaped"].as_u64() >= Some(1) && s["cores"].as_u64() == Some(3));
    demo.wait_for_line(&format!(
        "worker {killed_worker}: pid {killed_pid} was killed by SIGKILL"
    ));
    demo.wait_for_line(&format!("worker {killed_worker}: forked again"));
    demo.interrupt_and_expect_a_clean_end();
}

#[test]
fn a_room_goes_on_while_every_worker_is_killed_in_turn() {
    let demo = Demo::start(&["--workers", "2"]);
    let (mut ann, mut bob) = two_pages(&demo, "x");
    for round in 0..6 {
        let (victim, other) = if round % 2 == 0 {
            (&mut ann, &mut bob)
        } else {
            (&mut bob, &mut ann)
        };
        if victim.worker == other.worker {
            // Both sit on the one that lived; a fresh connection goes to the other.
            victim.move_elsewhere(&demo, other.worker);
        }
        victim.kill_worker();
        victim.wait_for_end();
        other.say(&format!("round {round}"));
        victim.reconnect(&demo);
        victim.wait_for_lines(round + 1);
        other.wait_for_lines(round + 1);
        victim.wait_for_people(&["ann", "bob"]);
        // A worker that lives for a while is forked again at once.
        std::thread::sleep(Duration::from_millis(1100));
    }
    assert_eq!(ann.lines(), bob.lines());
    bob.wait_for_stats(|s| s["reaped"].as_u64() >= Some(6) && s["cores"].as_u64() == Some(2));
    demo.interrupt_and_expect_a_clean_end();
}

#[test]
fn fresh_windows_mostly_land_on_different_workers() {
    const PAIRS: usize = 30;
    let demo = Demo::start(&["--workers", "2"]);
    let mut different = 0;
    for _ in 0..PAIRS {
        let (mut ann, mut bob) = (Page::open(&demo, "ann"), Page::open(&demo, "bob"));
        ann.enter("x");
        bob.enter("x");
        different += usize::from(ann.worker != bob.worker);
        ann.close();
        bob.close();
        Page::wait_until_nobody_is_left(&demo);
    }
    println!("{different} of {PAIRS} pairs of windows were on different workers");
    assert!(
        different > PAIRS * 2 / 3,
        "{different} of {PAIRS}: no better than chance"
    );
    demo.interrupt_and_expect_a_clean_end();
}

#[test]
fn a_stopped_worker_holds_no_newcomer_up() {
    let demo = Demo::start(&["--workers", "2"]);
    let ann = Page::open(&demo, "ann");
    demo.stop_worker(ann.pid);
    for n in 0..5 {
        let mut page = Page::open(&demo, &format!("p{n}"));
        page.enter("x");
        assert_ne!(page.pid, ann.pid);
    }
    demo.signal_worker(ann.pid, Signal::SIGCONT);
    demo.interrupt_and_expect_a_clean_end();
}

#[test]
fn a_worker_that_lags_says_so_and_gets_the_last_lines_from_another() {
    const CHUNK: usize = 20;
    let demo = Demo::start(&["--workers", "2"]);
    let (mut ann, mut bob) = two_pages(&demo, "x");
    ann.keep_notices();
    demo.stop_worker(ann.pid);
    let filling = "x".repeat(900);
    let mut said = 0;
    while bob.stats["lost"].as_u64() < Some(100) {
        assert!(said < 20_000, "a stopped worker's queue must get full");
        for _ in 0..CHUNK {
            bob.say(&format!("{said} {filling}"));
            said += 1;
        }
        bob.wait_for_lines(said);
    }
    demo.signal_worker(ann.pid, Signal::SIGCONT);
    let last: Vec<_> = bob.lines().split_off(said - 40);
    ann.wait("the last lines", |page| {
        last.iter()
            .all(|line| page.arrived().contains(line))
            .then_some(())
    });
    assert!(ann.arrived().len() < said, "some were lost");
    assert!(
        ann.notices.iter().any(|text| text.contains("lost")),
        "{:?}",
        ann.notices
    );
    assert!(!ann.ended());
    demo.interrupt_and_expect_a_clean_end();
}

#[test]
fn a_worker_that_dies_again_and_again_is_forked_with_pauses_and_the_others_serve() {
    let demo = Demo::start(&["--workers", "2"]);
    let mut pid = demo.worker_pid(0);
    for _ in 0..4 {
        demo.signal_worker(pid, Signal::SIGKILL);
        pid = demo.wait_for_pid_after("worker 0: forked again as pid ");
    }
    demo.wait_for_line("backing off");
    let mut page = Page::open(&demo, "ann");
    page.enter("x");
    page.wait_for_stats(|s| s["cores"].as_u64() == Some(2));
    demo.interrupt_and_expect_a_clean_end();
}

#[test]
fn pages_of_other_sites_may_not_connect_and_a_bad_id_is_refused() {
    let demo = Demo::start(&["--workers", "1"]);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let foreign = format!("{upgrade}Origin: http://example.org\r\n");
    assert!(
        get(demo.port, "/ws?id=a&name=b", &foreign)
            .0
            .starts_with("HTTP/1.1 403")
    );
    assert!(
        get(demo.port, "/ws?id=%3Cb%3E&name=b", upgrade)
            .0
            .starts_with("HTTP/1.1 400")
    );
    let mut page = Page::open(&demo, "ann");
    page.send_raw("no json");
    page.send_raw("{\"t\":\"nothing\"}");
    page.enter("x");
    demo.interrupt_and_expect_a_clean_end();
}

#[test]
fn a_busy_port_gives_one_line_and_an_exit_code() {
    let demo = Demo::start(&["--workers", "1"]);
    let (code, out, err) = server::run_to_end(&["demo", "--port", &demo.port.to_string()]);
    assert_eq!(code, Some(1));
    assert_eq!(out, "");
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(
        err.contains(&demo.port.to_string()) && err.contains("--port"),
        "{err}"
    );
    let mut page = Page::open(&demo, "ann");
    page.enter("x");
    demo.interrupt_and_expect_a_clean_end();
}

#[test]
fn options_out_of_range_are_refused_with_their_range() {
    for args in [
        ["demo", "--workers", "0"],
        ["demo", "--workers", "9999"],
        ["demo", "--port", "99999"],
    ] {
        let (code, _, err) = server::run_to_end(&args);
        assert_eq!(code, Some(2), "{args:?}");
        assert!(err.contains(args[2]) && err.contains(".."), "{err}");
    }
}

#[test]
fn the_port_asked_for_is_the_one_that_is_served() {
    let port = free_port();
    let demo = Demo::start(&["--workers", "1", "--port", &port.to_string()]);
    assert_eq!(demo.port, port);
    demo.interrupt_and_expect_a_clean_end();
}

#[test]
fn sigint_and_sigterm_say_goodbye_to_pages_and_leave_nothing_behind() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let demo = Demo::start(&["--workers", "3"]);
        let (mut ann, mut bob) = two_pages(&demo, "x");
        let port = demo.port;
        demo.end_with(signal);
        ann.wait_for_goodbye();
        bob.wait_for_goodbye();
        demo.expect_a_clean_end();
        std::net::TcpListener::bind(("127.0.0.1", port)).expect("the port is free again");
    }
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_a_worker_that_hangs() {
    let demo = Demo::start(&["--workers", "2"]);
    demo.stop_worker(demo.worker_pid(1));
    demo.end_with(Signal::SIGINT);
    demo.wait_for_line("stopping");
    demo.end_with(Signal::SIGINT);
    demo.expect_an_end_with(130);
}

#[test]
fn a_worker_that_hangs_is_killed_in_the_end() {
    let demo = Demo::start(&["--workers", "2"]);
    demo.stop_worker(demo.worker_pid(0));
    demo.interrupt_and_expect_a_clean_end();
}

#[test]
fn workers_die_with_their_master() {
    let demo = Demo::start(&["--workers", "2"]);
    let pids = demo.worker_pids();
    demo.kill_master();
    for pid in pids {
        server::wait_until_dead(pid);
    }
}
