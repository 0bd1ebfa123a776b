//! Batches whose launches are timed one by one compute what all others do.

use gavel::engine::Prepared;
use gavel::engine::cuda::{Batches, DeviceOptions};

use crate::rig::{Ids, LIMITS, Rig, fill, scores};

#[test]
fn launches_alone_change_no_scores() {
    for copy_from_bytes in [1 << 30, 0] {
        let Some(rig) = Rig::new(DeviceOptions { copy_from_bytes, ..DeviceOptions::default() }) else { return };
        let Prepared::Cuda(loaded) = rig.load(Ids::Two).unwrap() else { panic!("for another engine") };
        let mut batches = Batches::new(&loaded, LIMITS, 2).unwrap();
        let expected: Vec<Vec<f32>> = (0..2).map(|at| fill(batches.slot(at), Ids::Two, &[20, 12], at)).collect();
        batches.run().unwrap();
        let launches = batches.launches();
        let names: Vec<&str> = launches.iter().map(|launch| launch.kernel.as_str()).collect();
        assert_eq!(names, ["contexts", "candidates", "scores"]);
        assert_eq!(launches.iter().map(|launch| launch.blocks).collect::<Vec<_>>(), [1, 1, 2]);
        for launch in 0..launches.len() {
            batches.time_launch(launch, 3).unwrap();
        }
        batches.time_copies(2).unwrap();
        batches.time_batches(3).unwrap();
        for (at, expected) in expected.iter().enumerate() {
            assert_eq!(&scores(batches.slot(at)), expected, "slot {at}, copied from {copy_from_bytes} bytes");
        }
    }
}
