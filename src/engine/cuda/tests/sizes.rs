//! Batches of sizes that other kernels compute, or whose inputs are copied first: the selftest at load reaches them.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use super::{SHARED_BYTES, TURN, compile, emulator};
use crate::batch::SlotLimits;
use crate::engine::Prepared;
use crate::engine::cuda::generate::{Numbers, Target};
use crate::engine::cuda::inputs::copied_bytes;
use crate::engine::cuda::{Device, DeviceOptions, Loaded, Program};
use crate::engine::selftest::{self, SelftestError};
use crate::model::{LoadOptions, load};

const LIMITS: SlotLimits = SlotLimits { contexts: 1000, rows: 1000, ids: 100_000 };

#[test]
fn the_selftest_reaches_every_kernel() {
    if emulator::cuda().is_none() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles/dlrm_scoped");
    let model = Arc::new(load(&folder, &LoadOptions::default(), &mut |_| {}).expect("a bundle"));
    let target = Target::new(SHARED_BYTES, Numbers::F32);
    let ready = |spoil: &dyn Fn(&mut Program), copy_from_bytes: usize| {
        let mut program = Program::new(&model, &target).expect("a program");
        // Large tiles are for thousands of rows, which would take the emulator long.
        program.variants[1].rows_from = 300;
        spoil(&mut program);
        let code = compile(&program).expect("code");
        let device = Device::open(DeviceOptions { copy_from_bytes, ..DeviceOptions::default() }).expect("the emulator, or a GPU");
        Prepared::Cuda(Arc::new(Loaded::new(&device, Arc::new(program), &code).expect("loaded")))
    };
    let never = usize::MAX;
    let well = ready(&|_| {}, never);
    assert_eq!(selftest::replay_large(&well, &model, LIMITS).expect("as recorded"), [300]);
    assert_eq!(selftest::replay_large(&well, &model, SlotLimits { rows: 299, ..LIMITS }).expect("as recorded"), [] as [usize; 0]);
    // A row of candidates has at least the number of its context: 4 bytes.
    let copied = ready(&|_| {}, 600 * 4);
    let sizes = selftest::replay_large(&copied, &model, LIMITS).expect("as recorded");
    assert!(sizes.contains(&300) && sizes.len() == 2, "{sizes:?}");
    // What is said to be copied is copied, and a slot of fewer requests holds such batches as well.
    let copying = copied.sizes_apart(LIMITS).into_iter().filter(|size| copied_bytes(copied.layout(), size.slot_rows) >= 600 * 4).count();
    assert!(copying > 0, "{:?}", copied.sizes_apart(LIMITS));
    let few = SlotLimits { contexts: 7, ids: 300 * 40, ..LIMITS };
    assert_eq!(selftest::replay_large(&copied, &model, few).expect("as recorded"), sizes);

    let bad = ready(
        &|program| {
            let large = program.source.rfind("\nnamespace tile_").expect("large tiles");
            let spoilt = program.source[large..].replace("RELU", "IDENTITY");
            program.source.replace_range(large.., &spoilt);
        },
        never,
    );
    selftest::replay(&bad, &model).expect("small batches are computed well");
    match selftest::replay_large(&bad, &model, LIMITS) {
        Err(SelftestError::Large { size: 300, source }) => assert!(matches!(*source, SelftestError::Mismatch { .. }), "{source}"),
        other => panic!("{other:?}"),
    }
}
