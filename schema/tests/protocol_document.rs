//! PROTOCOL.md says what the code does: the error table, the limits and the worked example are compared.

use std::fmt::Write;

use gavel_protocol::{
    CLIENT_NAME_BYTES_MAX, Code, Encoder, Fault, FeatureKind, Header, Kind, MODEL_NAME_BYTES_MAX, PING_BYTES_MAX, RankBody, Scope,
    ScoresBody, SignatureFeature, TOKEN_BYTES_MAX, signature,
};

const DOCUMENT: &str = include_str!("../PROTOCOL.md");

/// The text between two markers, without them.
fn section(name: &str) -> &'static str {
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
    let (_, rest) = DOCUMENT.split_once(&start).unwrap_or_else(|| panic!("PROTOCOL.md has no {start}"));
    rest.split_once(&end).unwrap_or_else(|| panic!("PROTOCOL.md has no {end}")).0
}

#[test]
fn error_table() {
    let rows: Vec<[String; 5]> = section("error table")
        .lines()
        .skip(2)
        .map(|line| {
            let mut cells = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
            std::array::from_fn(|_| cells.next().unwrap_or_default())
        })
        .collect();
    let expected: Vec<[String; 5]> = Code::ALL
        .iter()
        .map(|code| {
            let fault = match code.fault() {
                Fault::Client => "client",
                Fault::State => "state",
                Fault::Server => "server",
            };
            let yes_or_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
            [(*code as u16).to_string(), code.name().to_owned(), fault.to_owned(), yes_or_no(code.retry()), yes_or_no(code.closes())]
        })
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn limits() {
    for (limit, text) in [
        (CLIENT_NAME_BYTES_MAX, "`client` has at most 128 bytes"),
        (TOKEN_BYTES_MAX, "`token` at most 256"),
        (MODEL_NAME_BYTES_MAX, "A public name has at most 128 bytes"),
        (PING_BYTES_MAX, "at most 64 bytes"),
    ] {
        assert!(text.contains(&limit.to_string()) && DOCUMENT.contains(text), "{text}");
    }
}

#[test]
fn worked_example() {
    let signature = signature(
        "ctr",
        [
            SignatureFeature {
                name: "age",
                kind: FeatureKind::Dense,
                scope: Scope::Context,
                width: 1,
                max_len: 1,
                id_bytes: 0,
                weighted: false,
            },
            SignatureFeature {
                name: "ad",
                kind: FeatureKind::Sparse,
                scope: Scope::Candidate,
                width: 1,
                max_len: 1,
                id_bytes: 4,
                weighted: false,
            },
            SignatureFeature {
                name: "words",
                kind: FeatureKind::Sparse,
                scope: Scope::Candidate,
                width: 0,
                max_len: 8,
                id_bytes: 4,
                weighted: true,
            },
        ]
        .into_iter(),
    );
    let ids: &[u32] = &[7, 100, 101, 9];
    let body = RankBody {
        context_dense: bytemuck::cast_slice(&[0.5_f32]),
        ids: bytemuck::cast_slice(ids),
        lengths: bytemuck::cast_slice(&[2_u16, 0]),
        weights: bytemuck::cast_slice(&[1.0_f32, 0.25]),
        top_k: 1,
        ..RankBody::default()
    };
    let header = Header { signature, candidates: 2, budget_us: 5000, ..Header::new(Kind::Rank, 42) };
    let mut encoder = Encoder::new();
    let mut example = String::from("```text\n");
    dump(&mut example, "rank, client to server", encoder.rank(&header, &body));
    let answer = ScoresBody {
        model_version: 3,
        outputs: 1,
        scores: &[0.75],
        status: None,
        winners: Some(&[1]),
        context_status: 0,
        queue_us: 12,
        compute_us: 80,
        total_us: 95,
    };
    dump(&mut example, "scores, server to client", encoder.scores(42, signature, &answer));
    example.push_str("```\n");
    assert_eq!(section("example"), example, "the example should be:\n{example}");
}

fn dump(out: &mut String, title: &str, frame: &[u8]) {
    writeln!(out, "{title}: {} bytes", frame.len()).expect("a string takes all");
    for (row, bytes) in frame.chunks(16).enumerate() {
        write!(out, "{:04x} ", row * 16).expect("a string takes all");
        for word in bytes.chunks(4) {
            write!(out, " {}", word.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")).expect("a string takes all");
            out.push(' ');
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
}
