//! A seeded simulation: hostile schedules against the rules that must hold whatever happens.

use proptest::prelude::*;

use super::{Refused, Scheduler};
use crate::units::{Instant, ModelNumber, SlotId, Span};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Offer { model: u16, rows: u32, budget: Option<u64> },
    Take,
    Finish { well: bool },
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u16..3, 0u32..200, prop::option::of(0u64..5_000_000)).prop_map(|(model, rows, budget)| Step::Offer { model, rows, budget }),
        3 => Just(Step::Take),
        3 => any::<bool>().prop_map(|well| Step::Finish { well }),
        2 => (0u64..3_000_000).prop_map(Step::Pass),
    ]
}

/// What a slot holds, kept by the test.
#[derive(Clone, Default)]
struct Shadow {
    requests: Vec<u64>,
    rows: u32,
    due: Option<Instant>,
}

const SLOTS_PER_MODEL: u16 = 3;
const SLOT_ROWS: u32 = 400;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn every_request_is_in_one_slot_until_that_slot_finishes(steps in prop::collection::vec(step(), 1..200)) {
        let mut scheduler = Scheduler::default();
        for model in 0..3 {
            scheduler.attach(ModelNumber(model), (0..SLOTS_PER_MODEL).map(|slot| SlotId(model * SLOTS_PER_MODEL + slot)));
        }
        let mut shadows = vec![Shadow::default(); 9];
        let mut running: Vec<SlotId> = Vec::new();
        let mut now = Instant(0);
        let (mut offered, mut refused, mut finished) = (0u64, 0u64, 0u64);
        for step in steps {
            match step {
                Step::Pass(ns) => now = now + Span(ns),
                Step::Offer { model, rows, budget } => {
                    offered += 1;
                    let deadline = budget.map_or(Instant::NEVER, |ns| now + Span(ns));
                    loop {
                        match scheduler.place(ModelNumber(model), rows, deadline, now) {
                            Ok(slot) => {
                                prop_assert_eq!(slot.0 / SLOTS_PER_MODEL, model, "a slot of its own model");
                                prop_assert!(!running.contains(&slot), "a running slot takes nobody in");
                                let shadow = &mut shadows[usize::from(slot.0)];
                                if shadow.rows + rows > SLOT_ROWS {
                                    prop_assert!(scheduler.seal(slot), "a slot with requests can be sealed");
                                    continue;
                                }
                                shadow.requests.push(offered);
                                shadow.rows += rows;
                                let due = deadline.min(now + super::DEFAULT_SLACK);
                                shadow.due = Some(shadow.due.map_or(due, |old| old.min(due)));
                                scheduler.joined(slot, rows, deadline, 0, now);
                            }
                            Err(Refused::NoRoom) => {
                                refused += 1;
                                let own = usize::from(model * SLOTS_PER_MODEL);
                                prop_assert!(shadows[own..own + usize::from(SLOTS_PER_MODEL)].iter().all(|shadow| !shadow.requests.is_empty()), "refused only when every slot is taken");
                            }
                            Err(Refused::TooLate(by)) => {
                                refused += 1;
                                prop_assert!(deadline != Instant::NEVER && by > Span::ZERO);
                            }
                        }
                        break;
                    }
                }
                Step::Take => {
                    let waiting: Vec<usize> = (0..shadows.len()).filter(|slot| !shadows[*slot].requests.is_empty() && !running.contains(&SlotId(*slot as u16))).collect();
                    prop_assert_eq!(scheduler.has_waiting(), !waiting.is_empty());
                    match scheduler.take(now) {
                        None => prop_assert!(waiting.is_empty(), "work-conserving: nothing waits while the engine asks"),
                        Some(slot) => {
                            let due = shadows[usize::from(slot.0)].due;
                            prop_assert!(waiting.iter().all(|other| shadows[*other].due >= due), "earliest deadline first");
                            running.push(slot);
                        }
                    }
                }
                Step::Finish { well } => {
                    if let Some(slot) = running.pop() {
                        let shadow = std::mem::take(&mut shadows[usize::from(slot.0)]);
                        finished += shadow.requests.len() as u64;
                        scheduler.finished(slot, well.then_some(shadow.rows), now);
                    }
                }
            }
        }
        let rows: u32 = (0..9).filter(|slot| !running.contains(&SlotId(*slot))).map(|slot| shadows[usize::from(slot)].rows).sum();
        prop_assert_eq!(scheduler.rows_waiting(), rows);
        let held: u64 = shadows.iter().map(|shadow| shadow.requests.len() as u64).sum();
        prop_assert_eq!(offered, refused + finished + held, "nothing is lost, nothing is served twice");
    }
}

#[test]
fn an_idle_scheduler_refuses_only_what_is_already_late() {
    let mut scheduler = Scheduler::default();
    scheduler.attach(ModelNumber(0), [SlotId(0)]);
    assert_eq!(scheduler.place(ModelNumber(0), 10, Instant(1), Instant(0)), Ok(SlotId(0)));
    scheduler.joined(SlotId(0), 100, Instant(1), 0, Instant(0));
    assert_eq!(scheduler.take(Instant(0)), Some(SlotId(0)));
    // 100 rows took 100 µs: a µs a row from here on.
    scheduler.finished(SlotId(0), Some(100), Instant(100_000));
    let now = Instant(200_000);
    // Idle: taken, whatever the prediction.
    assert_eq!(scheduler.place(ModelNumber(0), 50, now + Span(1), now), Ok(SlotId(0)));
    scheduler.joined(SlotId(0), 50, now + Span(60_000), 0, now);
    assert_eq!(
        scheduler.place(ModelNumber(0), 50, now + Span(60_000), now),
        Err(Refused::TooLate(Span(40_000))),
        "what waits is ahead of it"
    );
    assert_eq!(scheduler.place(ModelNumber(0), 50, now + Span(100_000), now), Ok(SlotId(0)));
    assert_eq!(scheduler.place(ModelNumber(0), 50, Instant::NEVER, now), Ok(SlotId(0)));
}

/// A batch that was held up by a descheduled thread must not shut the model's callers out.
#[test]
fn a_stall_is_forgotten() {
    let mut scheduler = Scheduler::default();
    scheduler.attach(ModelNumber(0), [SlotId(0), SlotId(1)]);
    let mut now = Instant(0);
    let mut refused = 0;
    let budget = Span::from_ms(5);
    for round in 0..200 {
        let took = if round == 0 { Span::from_ms(200) } else { Span::from_ms(2) };
        for _ in 0..2 {
            match scheduler.place(ModelNumber(0), 500, now + budget, now) {
                Ok(slot) => scheduler.joined(slot, 500, now + budget, 0, now),
                Err(_) => refused += 1,
            }
        }
        let slot = scheduler.take(now).expect("the first of a round is never refused");
        now = now + took;
        scheduler.finished(slot, Some(500), now);
    }
    assert!(refused < 20, "{refused} of 400 refused after one stall");
}

#[test]
fn higher_priority_runs_first() {
    let mut scheduler = Scheduler::default();
    scheduler.attach(ModelNumber(0), [SlotId(0)]);
    scheduler.attach(ModelNumber(1), [SlotId(1)]);
    let now = Instant(0) + Span::from_ms(1_000);
    for (model, priority) in [(0, 0), (1, 3)] {
        let slot = scheduler.place(ModelNumber(model), 10, Instant::NEVER, now).expect("room");
        scheduler.joined(slot, 10, now + Span::from_ms(5), priority, now);
    }
    assert_eq!(scheduler.take(now), Some(SlotId(1)));
}
