//! What the engine promises beside the right numbers: same bits however rows are batched and steps are cut, slots and workspaces reused.

use std::sync::Arc;

use crate::batch::SlotLimits;
use crate::engine::{Engine, EngineKind, NullEngine, Prepared, Replay, Step, prepare};
use crate::model::Model;
use crate::units::{Clock, Instant};

use super::batches::{self, Request};
use super::builder::ModelBuilder;
use super::{Bench, CpuEngine, Program, Random, families, levels, random};

fn bits(scores: &[Vec<f32>]) -> Vec<Vec<u32>> {
    scores.iter().map(|scores| scores.iter().map(|score| score.to_bits()).collect()).collect()
}

/// Models with wide and narrow layers, many kinds of ops, and all scopes.
fn models() -> Vec<Arc<Model>> {
    let mut models: Vec<_> = (300..312).map(random::model).collect();
    models.push(families::dlrm(1, &[48, 16], &[100, 1]));
    models.push(families::mmoe(2));
    // Inner sizes of several blocks, a narrow layer, a small one.
    let mut wide = ModelBuilder::new(6);
    let feature = wide.dense(crate::model::Scope::Candidate, 5);
    let mut x = wide.op(crate::model::Op::Dense { features: vec![feature] });
    for n in [1100, 37, 600, 3] {
        x = wide.linear(x, n);
    }
    let outputs: Vec<_> = (0..3).map(|at| wide.op(crate::model::Op::Slice { x, axis: 0, start: at, end: at + 1, step: 1 })).collect();
    models.push(wide.finish(&outputs));
    models
}

#[test]
fn a_row_scores_the_same_bits_alone_and_in_any_company() {
    for (seed, model) in models().iter().enumerate() {
        let together = random::requests(model, seed as u64, 163);
        let limits = batches::limits(&together);
        for options in levels().flat_map(super::plans) {
            let mut bench = Bench::planned(model, &options, limits);
            let (scores, _) = bench.run(&together, Instant::NEVER);
            let outputs = model.graph.outputs.len();
            for (request, scores) in together.iter().zip(&bits(&scores)).filter(|(request, _)| !request.dead) {
                for (candidate, scores) in request.candidates.iter().zip(scores.chunks_exact(outputs)) {
                    let alone = Request { context: request.context.clone(), candidates: vec![candidate.clone()], dead: false };
                    let (alone, _) = bench.run(&[alone], Instant::NEVER);
                    assert_eq!(bits(&alone)[0], scores, "{options:?} {:#?}", model.graph);
                }
            }
        }
    }
}

#[test]
fn steps_cut_anywhere_give_the_same_bits() {
    for (seed, model) in models().iter().enumerate() {
        let requests = random::requests(model, seed as u64, 97);
        for simd in levels() {
            let mut bench = Bench::new(model, simd, batches::limits(&requests));
            let (whole, _) = bench.run(&requests, Instant::NEVER);
            // Always late: every step is one unit.
            let (cut, steps) = bench.run(&requests, Instant(0));
            assert_eq!(bits(&whole), bits(&cut), "{:?}", simd.level());
            let program = Program::for_level(model, simd).expect("memory");
            let live = requests.iter().any(|request| !request.dead && !request.candidates.is_empty());
            assert!(!live || steps > program.steps().1, "{steps} steps");
        }
    }
}

#[test]
fn a_wide_layer_is_cut_into_panels() {
    let mut model = ModelBuilder::new(5);
    let feature = model.dense(crate::model::Scope::Candidate, 3456);
    let x = model.op(crate::model::Op::Dense { features: vec![feature] });
    let x = model.linear(x, 700);
    let x = model.linear(x, 1);
    let model = model.finish(&[x]);
    let mut random = Random::new(1);
    let requests = [batches::request(&model, &mut random, 64)];
    for simd in levels() {
        let mut bench = Bench::new(&model, simd, batches::limits(&requests));
        let (whole, _) = bench.run(&requests, Instant::NEVER);
        let (cut, steps) = bench.run(&requests, Instant(0));
        assert_eq!(bits(&whole), bits(&cut));
        let macs = 64 * 3456 * 700;
        assert!(steps > macs / 3_000_000, "{:?}: {steps} steps of {} multiply-adds", simd.level(), macs / steps);
    }
}

#[test]
fn slots_are_given_back_and_models_share_an_engine() {
    let (small, large) = (families::dlrm(3, &[8, 4], &[5, 1]), families::dlrm(4, &[64, 16], &[40, 1]));
    let limits = SlotLimits { contexts: 3, rows: 50, ids: 500 };
    let mut engine = CpuEngine::new().expect("memory");
    let prepared = |model| prepare(EngineKind::Cpu, model).expect("memory");
    let first = engine.attach(&prepared(&small), 2, limits).expect("memory");
    let second = engine.attach(&prepared(&large), 1, limits).expect("memory");
    assert_eq!((first[0].0, first[1].0, second[0].0), (0, 1, 2));
    let clock = Clock::start();
    let score = |engine: &mut CpuEngine, slot, model| {
        let mut random = Random::new(9);
        engine.slot(slot).clear();
        batches::write(engine.slot(slot), 1, &batches::request(model, &mut random, 20));
        engine.start(slot);
        while engine.step(&clock, Instant(0)) == Step::Pending {}
        engine.slot(slot).scores(0).to_vec()
    };
    let alone = score(&mut engine, first[1], &small);
    score(&mut engine, second[0], &large);
    assert_eq!(score(&mut engine, first[0], &small), alone);
    engine.detach(&first);
    assert_eq!(engine.attach(&prepared(&large), 1, limits).expect("memory"), [first[0]]);
}

#[test]
fn a_model_may_come_while_a_batch_is_under_way() {
    let (small, large) = (families::dlrm(3, &[8, 4], &[5, 1]), families::dlrm(4, &[64, 16], &[40, 1]));
    let mut random = Random::new(9);
    let request = batches::request(&small, &mut random, 150);
    let limits = batches::limits(std::slice::from_ref(&request));
    let prepared = |model| prepare(EngineKind::Cpu, model).expect("memory");
    let clock = Clock::start();
    let score = |comes_after: usize| {
        let mut engine = CpuEngine::new().expect("memory");
        let slot = engine.attach(&prepared(&small), 1, limits).expect("memory")[0];
        batches::write(engine.slot(slot), 1, &request);
        engine.start(slot);
        let mut steps = 0;
        while engine.step(&clock, Instant(0)) == Step::Pending {
            steps += 1;
            if steps == comes_after {
                let limits = SlotLimits { contexts: 100, rows: 1000, ids: 10_000 };
                engine.attach(&prepared(&large), 2, limits).expect("memory");
            }
        }
        engine.slot(slot).scores(0).to_vec()
    };
    let undisturbed = score(0);
    for comes_after in [1, 5, 20, 33] {
        assert_eq!(score(comes_after), undisturbed, "after {comes_after} steps");
    }
}

#[test]
fn replay_collects_scores_in_order_on_both_engines() {
    let model = families::dlrm(7, &[16, 8], &[12, 1]);
    let mut random = Random::new(3);
    let requests: Vec<Request> = [7usize, 1, 64, 20].iter().map(|&rows| batches::request(&model, &mut random, rows)).collect();
    let limits = batches::limits(&requests);
    let collect = |prepared: &Prepared, per_batch: usize| {
        let mut left = requests.iter();
        let mut replay = Replay::new(prepared, limits).expect("memory");
        let scores: Result<Vec<f32>, crate::engine::BatchFailed> = replay.collect(|slot| {
            left.by_ref().take(per_batch).for_each(|request| {
                batches::write(slot, 0, request);
            });
            Ok(())
        });
        scores.expect("the engine runs")
    };
    let cpu = prepare(EngineKind::Cpu, &model).expect("memory");
    assert_eq!(collect(&cpu, 1), collect(&cpu, 3));
    assert_eq!(collect(&cpu, 2).len(), 92);
    let null = prepare(EngineKind::Null, &model).expect("memory");
    assert_eq!(collect(&null, 2), vec![0.0; 92]);
    assert_eq!(null.layout(), cpu.layout());
    assert_eq!(NullEngine::new().step(&Clock::start(), Instant::NEVER), Step::Idle);
}
