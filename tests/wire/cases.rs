//! What every wire must do. Each case takes a maker of wires.

use std::io::{Read, Write};
use std::thread::spawn;
use std::time::{Duration, Instant};

use gavel::units::Span;
use gavel::wire::{Cause, Close, ConnectionId, Event, SendFull, Waker, Wire, WireLimits};

use crate::alloc;
use crate::harness::{Echo, Kind, LIMITS, Stream, pair, pattern, read_pattern, waker, write_pattern};

pub fn frames_of_awkward_sizes_come_back<W: Wire>(make: impl Fn(WireLimits, Waker) -> W) {
    let chunkings: [&[usize]; 4] = [&[usize::MAX], &[1, 3, 500, 17], &[16_384], &[65_537, 1, 40_000]];
    let sizes = [1, 47, 48, 4095, 16_383, 16_384, 16_385, 66_560, 1 << 20];
    let mut wire = make(LIMITS, waker());
    for kind in [Kind::Tcp, Kind::Unix] {
        for size in sizes {
            for pieces in chunkings {
                // Small pieces of a large frame take long and show nothing new.
                if pieces[0] == 1 && size > 20_000 {
                    continue;
                }
                let total = size * (200_000 / size).clamp(2, 40);
                let (mut client, socket) = pair(kind);
                let id = wire.adopt(socket).unwrap();
                let mut reader = client.twin();
                let client = spawn(move || {
                    let reading = spawn(move || read_pattern(&mut reader, total));
                    write_pattern(&mut client, total, pieces);
                    reading.join().unwrap();
                });
                let mut echo = Echo::new(size);
                echo.run_for(&mut wire, client);
                echo.run_until(&mut wire, |echo, _| !echo.closed.is_empty());
                assert_eq!(echo.closed, [(id, Cause::Peer)], "{kind:?}, {size} bytes in pieces {pieces:?}");
                assert_eq!(wire.connections(), 0);
            }
        }
    }
}

pub fn mixed_sizes_pipelined_on_many_connections<W: Wire>(make: impl Fn(WireLimits, Waker) -> W) {
    let mut wire = make(LIMITS, waker());
    let clients: Vec<_> = (0..48u32)
        .map(|number| {
            let (mut client, socket) = pair(if number % 2 == 0 { Kind::Tcp } else { Kind::Unix });
            wire.adopt(socket).unwrap();
            let mut stream = Vec::new();
            for turn in 0..60u32 {
                let bytes = [4, 5, 48, 384, 3000, 16_380, 17_000, 70_000][(number + turn * 5 + turn * turn) as usize % 8];
                stream.extend_from_slice(&(bytes as u32).to_le_bytes());
                stream.extend((4..bytes).map(|at| pattern(at + number as usize)));
            }
            let mut reader = client.twin();
            spawn(move || {
                let expected = stream.clone();
                let reading = spawn(move || {
                    let mut found = vec![0; expected.len()];
                    reader.read_exact(&mut found).unwrap();
                    assert!(found == expected, "connection {number}: answers differ from requests");
                });
                for piece in stream.chunks(9_000 + number as usize) {
                    client.write_all(piece).unwrap();
                }
                reading.join().unwrap();
                client.finish();
                assert_eq!(client.read(&mut [0]).unwrap(), 0, "the end follows the last answer");
            })
        })
        .collect();
    let all = spawn(move || clients.into_iter().for_each(|client| client.join().unwrap()));
    let mut echo = Echo::new(0);
    echo.run_for(&mut wire, all);
    echo.run_until(&mut wire, |_, wire| wire.connections() == 0);
    assert_eq!(echo.closed.len(), 48);
    assert!(echo.closed.iter().all(|(_, cause)| *cause == Cause::Peer), "{:?}", echo.closed);
}

pub fn a_slow_reader_is_bounded_and_loses_nothing<W: Wire>(make: impl Fn(WireLimits, Waker) -> W) {
    const FRAME: usize = 60_000;
    const TOTAL: usize = 400 * FRAME;
    for kind in [Kind::Tcp, Kind::Unix] {
        let mut wire = make(WireLimits { send_bytes_max: 150_000, ..LIMITS }, waker());
        let (mut client, socket) = pair(kind);
        wire.adopt(socket).unwrap();
        let mut reader = client.twin();
        let client = spawn(move || {
            let reading = spawn(move || {
                std::thread::sleep(Duration::from_millis(150));
                read_pattern(&mut reader, TOTAL);
            });
            write_pattern(&mut client, TOTAL, &[100_000]);
            reading.join().unwrap();
        });
        let mut echo = Echo::new(FRAME);
        echo.run_for(&mut wire, client);
        assert!((120_000..=150_000).contains(&echo.unsent_max), "{}", echo.unsent_max);
    }
}

pub fn half_close_lets_answers_out<W: Wire>(make: impl Fn(WireLimits, Waker) -> W) {
    let mut wire = make(LIMITS, waker());
    for kind in [Kind::Tcp, Kind::Unix] {
        for size in [48, 66_560] {
            let (mut client, socket) = pair(kind);
            let id = wire.adopt(socket).unwrap();
            let client = spawn(move || {
                write_pattern(&mut client, 3 * size, &[usize::MAX]);
                client.finish();
                read_pattern(&mut client, 3 * size);
                assert_eq!(client.read(&mut [0]).unwrap(), 0);
            });
            let mut echo = Echo::new(size);
            echo.run_for(&mut wire, client);
            echo.run_until(&mut wire, |echo, _| !echo.closed.is_empty());
            assert_eq!(echo.closed, [(id, Cause::Peer)]);
        }
    }
}

pub fn a_reset_is_an_error<W: Wire>(make: impl Fn(WireLimits, Waker) -> W) {
    let mut wire = make(LIMITS, waker());
    // While idle, in the middle of a small frame, and of a large one.
    for (size, sent) in [(48, 0), (48, 47), (66_560, 60_000)] {
        let (mut client, socket) = pair(Kind::Tcp);
        let id = wire.adopt(socket).unwrap();
        client.write_all(&vec![1; sent]).unwrap();
        let mut echo = Echo::new(size);
        for _ in 0..3 {
            echo.turn(&mut wire, true);
        }
        client.reset();
        echo.run_until(&mut wire, |echo, _| !echo.closed.is_empty());
        assert_eq!(echo.closed, [(id, Cause::Error(libc::ECONNRESET))]);
        assert_eq!(wire.connections(), 0);
    }
}

pub fn close_after_sends_delivers_everything<W: Wire>(make: impl Fn(WireLimits, Waker) -> W) {
    const ANSWER: usize = 900_000;
    for kind in [Kind::Tcp, Kind::Unix] {
        for flood in [0, 3_000_000] {
            let mut wire = make(LIMITS, waker());
            let (mut client, socket) = pair(kind);
            let id = wire.adopt(socket).unwrap();
            let mut writer = client.twin();
            let client = spawn(move || {
                let writing = spawn(move || {
                    writer.write_all(b"?").unwrap();
                    // Unread bytes at the moment of closing must not destroy the answer.
                    let _ = writer.write_all(&vec![7; flood]);
                    writer.finish();
                });
                std::thread::sleep(Duration::from_millis(50));
                read_pattern(&mut client, ANSWER);
                assert_eq!(client.read(&mut [0]).unwrap(), 0);
                writing.join().unwrap();
            });
            let answer: Vec<u8> = (0..ANSWER).map(pattern).collect();
            let (mut closed, mut asked) = (None, false);
            let until = Instant::now() + Duration::from_secs(10);
            while closed.is_none() {
                assert!(Instant::now() < until, "no end");
                wire.wait(Some(Span::from_ms(5))).unwrap();
                while let Some(event) = wire.next() {
                    match event {
                        Event::Received(found) if !asked => {
                            asked = true;
                            wire.send(found, &answer).unwrap();
                            wire.close(found, Close::AfterSends);
                            assert!(wire.received(found).is_empty(), "a closing connection shows nothing");
                        }
                        Event::Closed(found, cause) => closed = Some((found, cause)),
                        other => panic!("{other:?} after close"),
                    }
                }
            }
            assert_eq!(closed, Some((id, Cause::Peer)), "{kind:?}, {flood} further bytes");
            client.join().unwrap();
        }
    }
}

pub fn close_now_is_the_last_event<W: Wire>(make: impl Fn(WireLimits, Waker) -> W) {
    let mut wire = make(LIMITS, waker());
    // With nothing under way, with a send that nobody takes, and in the middle of a large frame.
    for case in 0..4 {
        let (mut client, socket) = pair(Kind::Tcp);
        let id = wire.adopt(socket).unwrap();
        let mut echo = Echo::new(100_000);
        if case > 0 {
            client.write_all(&[5; 70_000]).unwrap();
            echo.run_until(&mut wire, |echo, _| echo.received_events > 0);
        }
        if case == 2 {
            while wire.send(id, &[1; 50_000]) != Err(SendFull) {
                echo.turn(&mut wire, false);
            }
        }
        if case == 3 {
            wire.set_reading(id, false);
            echo.turn(&mut wire, false);
            wire.close(id, Close::AfterSends);
        }
        wire.close(id, Close::Now);
        wire.close(id, Close::AfterSends);
        let mut events = Vec::new();
        for _ in 0..20 {
            wire.wait(Some(Span::from_ms(1))).unwrap();
            events.extend(std::iter::from_fn(|| wire.next()));
        }
        assert_eq!(events, [Event::Closed(id, Cause::Local)], "case {case}");
        let _ = client.write_all(&[5; 70_000]);
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        assert_eq!(wire.connections(), 0);
    }
}

pub fn ids_of_closed_connections_are_dead<W: Wire>(make: impl Fn(WireLimits, Waker) -> W) {
    let mut wire = make(WireLimits { connections_max: 2, ..LIMITS }, waker());
    let mut echo = Echo::new(4);
    let mut dead = Vec::new();
    for _ in 0..50 {
        let (mut first, socket) = pair(Kind::Unix);
        let id = wire.adopt(socket).unwrap();
        assert!(!dead.contains(&id), "an id came twice");
        let (_second, socket) = pair(Kind::Unix);
        let second = wire.adopt(socket).unwrap();
        let (_third, socket) = pair(Kind::Unix);
        assert!(wire.adopt(socket).is_err(), "a third connection of two");
        for &old in &dead {
            assert!(wire.received(old).is_empty());
            assert_eq!(wire.unsent(old), 0);
            assert_eq!(wire.send(old, b"lost"), Ok(()));
            wire.need(old, 9);
            wire.set_reading(old, false);
            wire.consume(old, 0);
            wire.close(old, Close::Now);
        }
        // An old close, send or cancel must not reach the successor.
        first.write_all(b"ping").unwrap();
        let before = echo.closed.len();
        echo.run_until(&mut wire, |echo, wire| {
            let _ = wire;
            echo.received_events > before / 2
        });
        echo.turn(&mut wire, false);
        let mut answer = [0; 4];
        first.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ping");
        wire.close(id, Close::Now);
        wire.close(second, Close::Now);
        echo.run_until(&mut wire, |echo, _| echo.closed.len() == before + 2);
        dead.extend([id, second]);
    }
}

pub fn incomplete_frames_make_no_events<W: Wire>(make: impl Fn(WireLimits, Waker) -> W) {
    let mut wire = make(LIMITS, waker());
    for frame_bytes in [1000, 40_000, 100_000] {
        let (mut client, socket) = pair(Kind::Tcp);
        wire.adopt(socket).unwrap();
        let mut echo = Echo::new(frame_bytes);
        for piece in (0..frame_bytes).map(pattern).collect::<Vec<_>>().chunks(frame_bytes / 10) {
            client.write_all(piece).unwrap();
            for _ in 0..3 {
                echo.turn(&mut wire, true);
            }
        }
        read_pattern(&mut client, frame_bytes);
        // The first bytes, some that were on their way when the length became known, and the whole.
        assert!(echo.received_events <= 3, "{} events for a frame of {frame_bytes} bytes", echo.received_events);
        drop(client);
        echo.run_until(&mut wire, |echo, _| !echo.closed.is_empty());
    }
}

pub fn nothing_is_told_while_reading_is_off<W: Wire>(make: impl Fn(WireLimits, Waker) -> W) {
    let mut wire = make(LIMITS, waker());
    for (kind, bytes) in [(Kind::Tcp, 100), (Kind::Unix, 100), (Kind::Tcp, 300_000), (Kind::Unix, 150_000)] {
        let (mut client, socket) = pair(kind);
        let id = wire.adopt(socket).unwrap();
        wire.turn().unwrap();
        assert_eq!(wire.next(), None);
        // Off before the bytes, which may already be under way in the kernel.
        wire.set_reading(id, false);
        let client = spawn(move || {
            write_pattern(&mut client, bytes, &[usize::MAX]);
            client.finish();
            client
        });
        for _ in 0..10 {
            wire.wait(Some(Span::from_ms(2))).unwrap();
            assert_eq!(wire.next(), None, "reading is off");
        }
        wire.set_reading(id, true);
        let (mut got, mut finished) = (0, false);
        let until = Instant::now() + Duration::from_secs(5);
        while !finished {
            assert!(Instant::now() < until, "{got} of {bytes} bytes");
            wire.wait(Some(Span::from_ms(20))).unwrap();
            while let Some(event) = wire.next() {
                match event {
                    Event::Received(_) => {
                        let fresh = wire.received(id);
                        assert!(fresh.iter().enumerate().all(|(at, &byte)| byte == pattern(got + at)));
                        let count = fresh.len();
                        got += count;
                        wire.consume(id, count);
                    }
                    Event::Finished(_) => finished = true,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(got, bytes);
        drop(client.join().unwrap());
        wire.close(id, Close::Now);
        let mut echo = Echo::new(1);
        echo.run_until(&mut wire, |echo, _| !echo.closed.is_empty());
        assert_eq!(echo.closed, [(id, Cause::Peer)]);
    }
}

pub fn a_flood_does_not_starve_others<W: Wire>(make: impl Fn(WireLimits, Waker) -> W) {
    let mut wire = make(LIMITS, waker());
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let floods: Vec<_> = (0..4)
        .map(|_| {
            let (mut client, socket) = pair(Kind::Unix);
            let id = wire.adopt(socket).unwrap();
            let stop = stop.clone();
            let thread = spawn(move || {
                let block = vec![9; 200_000];
                while !stop.load(std::sync::atomic::Ordering::Relaxed) && client.write_all(&block).is_ok() {}
            });
            (id, thread)
        })
        .collect();
    let (mut client, socket) = pair(Kind::Unix);
    let polite = wire.adopt(socket).unwrap();
    let (mut answered, mut turns, mut bytes_in_turn_max) = (0, 0, 0usize);
    let until = Instant::now() + Duration::from_secs(10);
    client.write_all(b"ping").unwrap();
    while answered < 50 {
        assert!(Instant::now() < until, "{answered} answers");
        wire.wait(Some(Span::from_ms(20))).unwrap();
        turns += 1;
        let mut bytes_in_turn = 0;
        while let Some(event) = wire.next() {
            let Event::Received(id) = event else { continue };
            let count = wire.received(id).len();
            bytes_in_turn += count;
            wire.consume(id, count);
            if id == polite {
                wire.send(id, b"pong").unwrap();
                wire.turn().unwrap();
                let mut answer = [0; 4];
                client.read_exact(&mut answer).unwrap();
                client.write_all(b"ping").unwrap();
                answered += 1;
            }
        }
        bytes_in_turn_max = bytes_in_turn_max.max(bytes_in_turn);
    }
    // A request written before a turn is seen in that turn or in the next.
    assert!(turns <= 3 * answered, "{turns} turns for {answered} answers under a flood");
    assert!(bytes_in_turn_max <= 5 << 20, "{bytes_in_turn_max} bytes in one turn");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for (id, thread) in floods {
        wire.close(id, Close::Now);
        let mut echo = Echo::new(1);
        echo.run_until(&mut wire, |_, _| thread.is_finished());
    }
}

pub fn wakes_and_timeouts_end_a_wait<W: Wire>(make: impl Fn(WireLimits, Waker) -> W) {
    let bell = waker();
    let mut wire = make(LIMITS, bell.clone());
    let started = Instant::now();
    // The first waits may end early: the wire sets itself up.
    while started.elapsed() < Duration::from_millis(30) {
        wire.wait(Some(Span::from_ms(40))).unwrap();
        assert_eq!(wire.next(), None);
    }
    assert!(started.elapsed() < Duration::from_millis(500), "a timeout of 40 ms took {:?}", started.elapsed());
    for round in 0..20 {
        let waker = bell.clone();
        let thread = spawn(move || {
            std::thread::sleep(Duration::from_millis(round % 3));
            waker.wake();
        });
        let mut woken = false;
        while !woken {
            wire.wait(None).unwrap();
            woken = std::iter::from_fn(|| wire.next()).any(|event| event == Event::Woken);
        }
        thread.join().unwrap();
    }
    // A wake while nobody waits is not lost.
    bell.wake();
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        assert!(Instant::now() < until, "the wake was lost");
        wire.turn().unwrap();
        if wire.next() == Some(Event::Woken) {
            break;
        }
    }
}

pub fn memory_of_closed_connections_is_given_back<W: Wire>(make: impl Fn(WireLimits, Waker) -> W) {
    const FRAME: usize = 1 << 20;
    static ZEROS: [u8; FRAME] = [0; FRAME];
    // In a process of its own, where no other test's memory comes and goes.
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    if std::env::var_os(ALONE).is_none() {
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let output = alone.args(["--exact", &name, "--nocapture"]).env(ALONE, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let anonymous_kib = || -> usize {
        let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let line = text.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let mut wire = make(LIMITS, waker());
    let mut echo = Echo::new(FRAME);
    echo.turn(&mut wire, false);
    let (before_kib, mut held_kib) = (anonymous_kib(), 0);
    for _ in 0..2 {
        let clients: Vec<_> = (0..40)
            .map(|_| {
                let (mut client, socket) = pair(Kind::Unix);
                wire.adopt(socket).unwrap();
                // All but the last byte: the frame stays in the wire's memory.
                let client = spawn(move || client.write_all(&ZEROS[1..]).map(|()| client).unwrap());
                echo.run_for(&mut wire, client)
            })
            .collect();
        for _ in 0..5 {
            echo.turn(&mut wire, true);
        }
        held_kib = anonymous_kib() - before_kib;
        drop(clients);
        echo.run_until(&mut wire, |_, wire| wire.connections() == 0);
    }
    let kept_kib = anonymous_kib().saturating_sub(before_kib);
    assert!(held_kib > 36 << 10, "40 connections with 1 MiB each hold {held_kib} KiB");
    assert!(kept_kib < 12 << 10, "{kept_kib} of {held_kib} KiB are kept after all connections closed");
}

pub fn ten_thousand_messages_without_allocation<W: Wire>(make: impl Fn(WireLimits, Waker) -> W) {
    const ROUNDS: usize = 1_500;
    let mut wire = make(LIMITS, waker());
    let mut clients = Vec::new();
    for (number, size) in [384, 384, 4000, 16_384, 20_000, 66_560, 384, 1000].into_iter().enumerate() {
        let (mut client, socket) = pair(if number % 2 == 0 { Kind::Tcp } else { Kind::Unix });
        wire.adopt(socket).unwrap();
        clients.push(spawn(move || {
            let mut frame = (size as u32).to_le_bytes().to_vec();
            frame.resize(size, number as u8);
            let mut answer = vec![0; size];
            for _ in 0..ROUNDS {
                client.write_all(&frame).unwrap();
                client.read_exact(&mut answer).unwrap();
            }
            assert_eq!(answer, frame);
            client
        }));
    }
    let mut echo = Echo::new(0);
    let clients: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let mut before = None;
            while !client.is_finished() {
                echo.turn(&mut wire, false);
                if echo.received_events > 500 && before.is_none() {
                    before = Some(alloc::count());
                }
                if let Some(before) = before {
                    assert_eq!(alloc::count() - before, 0, "allocations on the shard's thread");
                }
            }
            client.join().unwrap()
        })
        .collect();
    assert!(echo.received_events >= 10_000, "{}", echo.received_events);
    drop(clients);
}

/// Clients and a shard that do whatever comes to mind: nothing panics, no connection is lost or told of twice, no descriptor stays open.
pub fn random_lives_end_exactly_once<W: Wire>(make: impl Fn(WireLimits, Waker) -> W) {
    for seed in 0..3 {
        let limits = WireLimits { connections_max: 24, receive_bytes_max: 100_000, send_bytes_max: 70_000 };
        let mut wire = make(limits, waker());
        let mut random = Random(seed);
        let (mut live, mut seen, mut adopted) = (Vec::new(), std::collections::HashSet::new(), 0);
        let mut clients = Vec::new();
        let until = Instant::now() + Duration::from_secs(20);
        while adopted < 100 || wire.connections() > 0 {
            assert!(Instant::now() < until, "seed {seed}: {} connections stay", wire.connections());
            if adopted < 100 && wire.connections() < limits.connections_max && random.below(3) == 0 {
                let (client, socket) = pair(if random.below(2) == 0 { Kind::Tcp } else { Kind::Unix });
                live.push(wire.adopt(socket).unwrap());
                adopted += 1;
                let mood = Random(random.next());
                clients.push(spawn(move || live_at_random(client, mood)));
            }
            if random.below(4) == 0 {
                wire.wait(Some(Span::from_us(500))).unwrap()
            } else {
                wire.turn().unwrap()
            }
            while let Some(event) = wire.next() {
                match event {
                    Event::Received(id) | Event::Finished(id) | Event::Sent(id) => {
                        assert!(live.contains(&id), "{event:?} of a dead connection");
                        act_at_random(&mut wire, id, &mut random);
                    }
                    Event::Closed(id, _) => {
                        assert!(seen.insert(id), "{id:?} closed twice");
                        live.retain(|other| *other != id);
                        assert!(wire.received(id).is_empty());
                    }
                    Event::Woken => {}
                }
            }
            if let Some(&id) = live.get(random.below(200) as usize) {
                act_at_random(&mut wire, id, &mut random);
            }
        }
        assert_eq!(seen.len(), adopted);
        clients.into_iter().for_each(|client| client.join().unwrap());
    }
}

fn act_at_random<W: Wire>(wire: &mut W, id: ConnectionId, random: &mut Random) {
    let have = wire.received(id).len();
    match random.below(40) {
        0 => wire.close(id, Close::Now),
        1 => wire.close(id, Close::AfterSends),
        2 | 3 => wire.set_reading(id, false),
        4..8 => wire.set_reading(id, true),
        8 | 9 => wire.need(id, have + random.below(60_000) as usize),
        10 => wire.need(id, 100_000),
        11..20 => wire.consume(id, random.below(have as u64 + 1) as usize),
        20..24 => drop(wire.send(id, &vec![3; random.below(90_000) as usize])),
        _ => {
            let echo = wire.received(id)[..have.min(10_000)].to_vec();
            if wire.send(id, &echo).is_ok() {
                wire.consume(id, echo.len());
            }
        }
    }
}

fn live_at_random(mut client: Stream, mut random: Random) {
    client.set_patience(Duration::from_millis(20));
    let mut buffer = vec![5; 80_000];
    for _ in 0..random.below(40) {
        let bytes_max = if random.below(3) == 0 { 80_000 } else { 600 };
        let bytes = 1 + random.below(bytes_max) as usize;
        match random.below(12) {
            0 => client.finish_quietly(),
            1 if random.below(3) == 0 => return client.reset(),
            2..5 => drop(client.read(&mut buffer[..bytes])),
            5 => std::thread::sleep(Duration::from_millis(2)),
            _ => drop(client.write(&buffer[..bytes])),
        }
    }
}

/// Numbers that look random; a seed repeats them.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 16
    }
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

const ALONE: &str = "GAVEL_TEST_ALONE";
