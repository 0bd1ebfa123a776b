//! Whatever a request says: it is refused whole, or its rows are ones that an engine may index with.

mod world;

use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_slot_holds_valid_rows_alone(bytes in vec(prop_oneof![9 => 0u8..250, 1 => any::<u8>()], 0..600)) {
        world::admit_all(&bytes);
    }

    #[test]
    fn legal_requests_are_taken(layout in 0u8..4, candidates: u8, first in vec(0u8..250, 3)) {
        // No mask, no bids; behind the end come zeros, and no damage.
        let bytes = [&[layout, candidates, 0, 0], &first[..]].concat();
        prop_assert!(world::admit_all(&bytes) > 0);
    }
}
