//! The signature: which public name and which layout, in 64 bits. Equal on all releases and in all languages.
//!
//! The first 8 bytes, read little-endian, of SHA-256 over a text of lines, each ended by `\n`:
//!
//! ```text
//! gavel signature 1
//! model 3:ctr
//! feature 2:I1 dense context 1 1 0
//! feature 2:C1 sparse candidate 0 20 4 weighted
//! ```
//! Names are preceded by their length in bytes, so that no name can imitate another text. Then: kind, scope, width (0 = variable), most values per
//! row, bytes of an id (0 for dense), and the word `weighted` where ids have weights.

use sha2::{Digest, Sha256};

use crate::feature::{FeatureKind, Scope};

/// What the signature knows of a feature: everything that moves a byte of a request, nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureFeature<'a> {
    /// Name.
    pub name: &'a str,
    /// Dense, sparse or integer.
    pub kind: FeatureKind,
    /// Context or candidate.
    pub scope: Scope,
    /// Values per row; 0 = variable.
    pub width: u32,
    /// Most values per row; equals `width` where that is not 0.
    pub max_len: u32,
    /// Bytes of an id, 4 or 8; 0 for dense.
    pub id_bytes: u8,
    /// Each id has a weight.
    pub weighted: bool,
}

/// The signature of a public name and its features, in order.
pub fn signature<'a>(public_name: &str, features: impl Iterator<Item = SignatureFeature<'a>>) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(format!("gavel signature 1\nmodel {}:{}\n", public_name.len(), public_name));
    for feature in features {
        hasher.update(feature_line(&feature));
    }
    let digest = hasher.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

fn feature_line(feature: &SignatureFeature<'_>) -> String {
    format!(
        "feature {}:{} {} {} {} {} {}{}\n",
        feature.name.len(),
        feature.name,
        feature.kind.name(),
        feature.scope.name(),
        feature.width,
        feature.max_len,
        feature.id_bytes,
        if feature.weighted { " weighted" } else { "" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(name: &str) -> SignatureFeature<'_> {
        SignatureFeature { name, kind: FeatureKind::Dense, scope: Scope::Context, width: 1, max_len: 1, id_bytes: 0, weighted: false }
    }

    fn bag(name: &str) -> SignatureFeature<'_> {
        SignatureFeature { name, kind: FeatureKind::Sparse, scope: Scope::Candidate, width: 0, max_len: 20, id_bytes: 4, weighted: true }
    }

    fn integer(name: &str) -> SignatureFeature<'_> {
        SignatureFeature { name, kind: FeatureKind::Integer, scope: Scope::Candidate, width: 3, max_len: 3, id_bytes: 8, weighted: false }
    }

    /// Never change: clients in other languages and stored configurations hold these numbers.
    #[test]
    fn golden() {
        let cases: [(&str, &[SignatureFeature<'_>], u64); 5] = [
            ("", &[], 0xbc4d_2ccc_255e_6c5c),
            ("ctr", &[], 0x11d3_f8df_11ab_de5a),
            ("ctr", &[dense("I1"), bag("C1")], 0x1202_cdc9_25b4_77d7),
            ("ctr", &[bag("C1"), dense("I1")], 0xce25_8515_d666_cd35),
            ("größe", &[dense("a\nb 1:c"), integer("stunde")], 0x46ce_2120_fa87_a638),
        ];
        for (name, features, expected) in cases {
            let got = signature(name, features.iter().copied());
            assert_eq!(got, expected, "{name} {features:?}: {got:#018x}");
        }
    }

    #[test]
    fn every_part_counts() {
        let base = bag("C1");
        let of = |feature: SignatureFeature<'_>| signature("m", std::iter::once(feature));
        let changed = [
            SignatureFeature { name: "C2", ..base },
            SignatureFeature { kind: FeatureKind::Integer, ..base },
            SignatureFeature { scope: Scope::Context, ..base },
            SignatureFeature { width: 20, ..base },
            SignatureFeature { max_len: 21, ..base },
            SignatureFeature { id_bytes: 8, ..base },
            SignatureFeature { weighted: false, ..base },
        ];
        let mut all: Vec<u64> =
            changed.iter().map(|feature| of(*feature)).chain([of(base), signature("n", std::iter::once(base))]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), changed.len() + 2);
    }
}
