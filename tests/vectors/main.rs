//! Golden wire vectors: `schema/vectors` is what this code generates, and every server answers them as they say.
//!
//! `tools/make-vectors` writes the files. The answers are computed from the values by the float64 interpreter and by hand-written rules, not
//! recorded from a server; the replay then judges servers on both wires, with the bytes in whole, one by one and cut at random.
#![allow(clippy::unwrap_used)]

mod answers;
mod bad;
mod compare;
mod files;
mod good;
mod replay;
mod rows;
#[path = "../support/mod.rs"]
mod support;
mod vector;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use gavel::engine::EngineKind;
use gavel_protocol::{Code, Description, DrainView, ErrorView, HelloAnswerView, Kind, ScoresView};
use replay::{Pieces, replay, replay_pipelined};
use support::{BACKENDS, start, usable};
use vector::{Fate, Vector, frames, split};
use world::World;

fn all(world: &World) -> Vec<Vector> {
    [good::vectors(world), bad::vectors(world), answers::vectors()].concat()
}

/// Set by `tools/make-vectors`: `add` writes the files of new vectors, `thaw` all of them.
const WRITE: &str = "GAVEL_WRITE_VECTORS";

#[test]
fn committed_files_are_what_is_generated() {
    let world = World::load();
    let generated = files::files(&world, &all(&world));
    let folder = files::folder();
    if let Ok(mode) = std::env::var(WRITE) {
        for (name, bytes) in &generated {
            let path = folder.join(name);
            // The index grows with every vector; the frames are frozen.
            if mode == "thaw" || name == "index.json" || !path.exists() {
                std::fs::write(path, bytes).unwrap();
            }
        }
    }
    let mut committed = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".bin") || name == "index.json" {
            committed.insert(name.clone(), std::fs::read(folder.join(&name)).unwrap());
        }
    }
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<BTreeSet<_>>();
    let (here, there) = (names(&generated), names(&committed));
    let missing: Vec<_> = here.difference(&there).collect();
    let unknown: Vec<_> = there.difference(&here).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:?}, of no vector {unknown:?}; tools/make-vectors adds new ones");
    for (name, bytes) in &generated {
        assert!(*bytes == committed[name], "{name} is frozen, and is generated differently now");
    }
}

#[test]
fn every_kind_and_code_has_a_vector() {
    let world = World::load();
    let vectors = all(&world);
    let mut codes = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    let mut names = BTreeSet::new();
    for vector in &vectors {
        assert!(names.insert(&vector.name), "{} twice", vector.name);
        let ids: Vec<u64> = vector.answers.iter().map(|frame| split(frame).unwrap().0.request_id).collect();
        assert!(ids.is_sorted(), "{}: answers in the order of their ids", vector.name);
        if let (true, Some(send)) = (vector.hello, &vector.send) {
            let greeting = |frame: &&[u8]| split(frame).unwrap().0.request_id == good::HELLO_ID;
            assert!(!frames(send).0.iter().any(greeting), "{}: the hello's id", vector.name);
        }
        for frame in vector.answers.iter().map(|frame| &frame[..]).chain(frames(vector.send.as_deref().unwrap_or_default()).0) {
            kinds.insert(split(frame).unwrap().0.kind as u8);
        }
        let mut closing = vector.half_close || vector.name == "drain_answer";
        for frame in &vector.answers {
            let (header, body) = split(frame).unwrap();
            match header.kind {
                Kind::HelloAnswer => assert!(HelloAnswerView::parse(body).is_ok()),
                Kind::Description => assert_eq!(Description::parse(body).as_ref(), Ok(&world.description)),
                Kind::Scores => {
                    let view = ScoresView::parse(body).unwrap();
                    assert_eq!((view.queue_us, view.compute_us, view.total_us), (0, 0, 0), "{}", vector.name);
                }
                Kind::Drain => assert!(DrainView::parse(body).is_ok()),
                Kind::Error => {
                    let view = ErrorView::parse(body).unwrap();
                    codes.extend(view.known());
                    closing |= view.known().is_some_and(Code::closes);
                }
                Kind::Pong => {}
                _ => panic!("{}: no answer of a server", vector.name),
            }
        }
        assert_eq!(vector.fate == Fate::Closed, closing, "{}", vector.name);
    }
    assert_eq!(codes, Code::ALL.iter().copied().collect(), "codes");
    let known: BTreeSet<u8> = (0..=u8::MAX).filter(|number| Kind::from_u8(*number).is_some()).collect();
    assert_eq!(kinds, known, "kinds");
}

#[test]
fn every_server_answers_as_the_vectors_say() {
    let world = World::load();
    let vectors = all(&world);
    let hello = vectors.iter().find(|vector| vector.name == "hello").unwrap();
    let ranks = vectors.iter().find(|vector| vector.name == "rank_two").unwrap();
    let requests: Vec<&Vector> = vectors.iter().filter(|vector| vector.send.is_some()).collect();
    let open: Vec<&Vector> = requests.iter().copied().filter(|vector| vector.hello && vector.fate == Fate::Open).collect();
    for backend in BACKENDS {
        if !usable(backend) {
            continue;
        }
        let server = start(backend, EngineKind::Cpu, 2, World::config(), std::slice::from_ref(&world.model));
        let address = server.server.addresses()[0].to_string();
        let mut faults = Vec::new();
        let mut replayed = 0;
        for vector in &requests {
            let pieces = [Pieces::Whole, Pieces::Bytes, Pieces::Random(0x9e37), Pieces::Random(0x79b9_7f4a)];
            for pieces in if vector.at_once { &pieces[..1] } else { &pieces } {
                replayed += 1;
                if let Err(fault) = replay(&address, hello, vector, *pieces) {
                    faults.push(format!("{} in {pieces:?}: {fault}", vector.name));
                }
                if let Err(fault) = replay(&address, hello, ranks, Pieces::Whole) {
                    faults.push(format!("the server after {} in {pieces:?}: {fault}", vector.name));
                }
            }
        }
        for pieces in [Pieces::Whole, Pieces::Bytes, Pieces::Random(7), Pieces::Random(0xdead_beef)] {
            replayed += open.len();
            if let Err(fault) = replay_pipelined(&address, hello, &open, pieces) {
                faults.push(format!("pipelined in {pieces:?}: {fault}"));
            }
        }
        println!("{backend}: {} vectors replayed {replayed} times, {} faults", requests.len(), faults.len());
        assert!(faults.is_empty(), "{backend}:\n{}", faults.join("\n"));
        assert!(server.server.drain(), "drained in time");
    }
}
