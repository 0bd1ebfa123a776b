//! An ONNX file written front to back: the few messages of `onnx.proto` (IR version 8) that a feed-forward graph needs, and initializers whose
//! data is made while it is written.
//!
//! A protobuf message is the concatenation of its fields in any order, so a model is its small part encoded as usual, then the graph's field
//! by hand: its length, which is known before any number is, its nodes, and one initializer after the other. A message cannot have 2 GiB or
//! more: a model beyond that keeps its initializers in a second file, `NAME.data`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(string, tag = "2")]
    producer_name: String,
    #[prost(string, tag = "3")]
    producer_version: String,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSet>,
}

#[derive(Clone, PartialEq, Message)]
struct OperatorSet {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

/// The graph without its initializers.
#[derive(Clone, PartialEq, Message)]
pub struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub nodes: Vec<Node>,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, repeated, tag = "11")]
    pub inputs: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub outputs: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Node {
    #[prost(string, repeated, tag = "1")]
    pub inputs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub outputs: Vec<String>,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, optional, tag = "3")]
    i: Option<i64>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    kind: i32,
}

impl Attribute {
    /// An integer.
    pub fn int(name: &str, value: i64) -> Attribute {
        Attribute { name: name.into(), i: Some(value), ints: vec![], kind: 2 }
    }

    /// A list of integers.
    pub fn ints(name: &str, values: &[i64]) -> Attribute {
        Attribute { name: name.into(), i: None, ints: values.into(), kind: 7 }
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct ValueInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    of: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    element: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    axes: Vec<Axis>,
}

#[derive(Clone, PartialEq, Message)]
struct Axis {
    #[prost(int64, optional, tag = "1")]
    size: Option<i64>,
    #[prost(string, optional, tag = "2")]
    symbol: Option<String>,
}

impl ValueInfo {
    /// [N, width], N free.
    pub fn rows(name: &str, element: Element, width: usize) -> ValueInfo {
        let axes = vec![Axis { size: None, symbol: Some("N".into()) }, Axis { size: Some(width as i64), symbol: None }];
        let tensor = Some(TensorType { element: element as i32, shape: Some(Shape { axes }) });
        ValueInfo { name: name.into(), of: Some(Type { tensor }) }
    }
}

/// An initializer without its numbers.
#[derive(Clone, PartialEq, Message)]
struct TensorHead {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    element: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(message, repeated, tag = "13")]
    external: Vec<Entry>,
    #[prost(int32, optional, tag = "14")]
    location: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// Element types, with their numbers in the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Element {
    F32 = 1,
    I64 = 7,
}

impl Element {
    fn bytes(self) -> u64 {
        match self {
            Element::F32 => 4,
            Element::I64 => 8,
        }
    }
}

/// Writes an initializer's data, little-endian, into what it is given.
pub type Data<'d> = Box<dyn Fn(&mut dyn Write) -> io::Result<()> + 'd>;

/// An initializer.
pub struct Initializer<'d> {
    pub name: String,
    pub element: Element,
    pub shape: Vec<usize>,
    pub data: Data<'d>,
}

impl Initializer<'_> {
    fn bytes(&self) -> u64 {
        self.shape.iter().map(|size| *size as u64).product::<u64>() * self.element.bytes()
    }
}

/// The operator set of all nodes.
const OPSET: i64 = 18;

/// Messages stay below this; protobuf's own limit is 2 GiB.
const MESSAGE_BYTES_MAX: u64 = (2 << 30) - (16 << 20);

const GRAPH_OF_MODEL: u32 = 7;
const INITIALIZER_OF_GRAPH: u32 = 5;
const RAW_DATA_OF_TENSOR: u32 = 9;

/// Writes a model.
pub fn write(file: &Path, graph: &Graph, initializers: &[Initializer<'_>]) -> io::Result<()> {
    write_within(file, graph, initializers, MESSAGE_BYTES_MAX)
}

fn write_within(file: &Path, graph: &Graph, initializers: &[Initializer<'_>], message_bytes_max: u64) -> io::Result<()> {
    let inline = initializers.iter().map(Initializer::bytes).sum::<u64>() < message_bytes_max;
    let beside = beside(file);
    let location = beside.file_name().unwrap_or_default().to_string_lossy();
    let (mut heads, mut offset) = (Vec::with_capacity(initializers.len()), 0);
    for initializer in initializers {
        heads.push(head(initializer, (!inline).then_some((location.as_ref(), offset))));
        offset += initializer.bytes().next_multiple_of(DATA_ALIGN);
    }
    let model = Model {
        ir_version: 8,
        producer_name: "gavel".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        opset_import: vec![OperatorSet { domain: String::new(), version: OPSET }],
    };
    let tensor_bytes = |(head, initializer): (&Vec<u8>, &Initializer<'_>)| {
        head.len() as u64 + if inline { field_bytes(RAW_DATA_OF_TENSOR, initializer.bytes()) } else { 0 }
    };
    let graph = graph.encode_to_vec();
    let sizes: Vec<u64> = heads.iter().zip(initializers).map(tensor_bytes).collect();
    let graph_bytes = graph.len() as u64 + sizes.iter().map(|bytes| field_bytes(INITIALIZER_OF_GRAPH, *bytes)).sum::<u64>();

    let mut out = BufWriter::with_capacity(1 << 20, File::create(file)?);
    out.write_all(&model.encode_to_vec())?;
    begin(&mut out, GRAPH_OF_MODEL, graph_bytes)?;
    out.write_all(&graph)?;
    for ((head, initializer), bytes) in heads.iter().zip(initializers).zip(sizes) {
        begin(&mut out, INITIALIZER_OF_GRAPH, bytes)?;
        out.write_all(head)?;
        if inline {
            begin(&mut out, RAW_DATA_OF_TENSOR, initializer.bytes())?;
            write_data(&mut out, initializer)?;
        }
    }
    out.into_inner()?.sync_data()?;
    if !inline {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&beside)?);
        for initializer in initializers {
            write_data(&mut out, initializer)?;
            let padding = initializer.bytes().next_multiple_of(DATA_ALIGN) - initializer.bytes();
            out.write_all(&vec![0; padding as usize])?;
        }
        out.into_inner()?.sync_data()?;
    }
    Ok(())
}

/// Runtimes that map the file want tensors on pages.
const DATA_ALIGN: u64 = 4096;

/// `model.onnx` → `model.onnx.data`.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".data");
    PathBuf::from(name)
}

fn head(initializer: &Initializer<'_>, external: Option<(&str, u64)>) -> Vec<u8> {
    let entry = |key: &str, value: String| Entry { key: key.into(), value };
    let external_entries = external.map_or(vec![], |(location, offset)| {
        vec![entry("location", location.into()), entry("offset", offset.to_string()), entry("length", initializer.bytes().to_string())]
    });
    let head = TensorHead {
        dims: initializer.shape.iter().map(|size| *size as i64).collect(),
        element: initializer.element as i32,
        name: initializer.name.clone(),
        external: external_entries,
        location: external.map(|_| 1),
    };
    head.encode_to_vec()
}

/// Bytes of a length-delimited field with its key and length.
fn field_bytes(tag: u32, bytes: u64) -> u64 {
    key_len(tag) as u64 + encoded_len_varint(bytes) as u64 + bytes
}

/// Key and length of a field whose bytes follow.
fn begin(out: &mut impl Write, tag: u32, bytes: u64) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(16);
    encode_key(tag, WireType::LengthDelimited, &mut buffer);
    encode_varint(bytes, &mut buffer);
    out.write_all(&buffer)
}

/// Writes the data, and insists that it is as long as the shape says: the lengths around it are written already.
fn write_data(out: &mut impl Write, initializer: &Initializer<'_>) -> io::Result<()> {
    let mut counting = Counting { out, bytes: 0 };
    (initializer.data)(&mut counting)?;
    let Counting { bytes, .. } = counting;
    if bytes != initializer.bytes() {
        return Err(io::Error::other(format!("initializer {}: {bytes} bytes of data for {:?}", initializer.name, initializer.shape)));
    }
    Ok(())
}

struct Counting<'o, W> {
    out: &'o mut W,
    bytes: u64,
}

impl<W: Write> Write for Counting<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of the format that the writer uses, to read it back with an ordinary decoder.
    #[derive(Clone, PartialEq, Message)]
    struct WholeModel {
        #[prost(int64, tag = "1")]
        ir_version: i64,
        #[prost(message, optional, tag = "7")]
        graph: Option<WholeGraph>,
        #[prost(message, repeated, tag = "8")]
        opset_import: Vec<OperatorSet>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct WholeGraph {
        #[prost(message, repeated, tag = "1")]
        nodes: Vec<Node>,
        #[prost(message, repeated, tag = "5")]
        initializers: Vec<WholeTensor>,
        #[prost(message, repeated, tag = "11")]
        inputs: Vec<ValueInfo>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct WholeTensor {
        #[prost(int64, repeated, tag = "1")]
        dims: Vec<i64>,
        #[prost(int32, tag = "2")]
        element: i32,
        #[prost(string, tag = "8")]
        name: String,
        #[prost(bytes = "vec", tag = "9")]
        raw: Vec<u8>,
        #[prost(message, repeated, tag = "13")]
        external: Vec<Entry>,
        #[prost(int32, tag = "14")]
        location: i32,
    }

    fn initializers<'d>(values: &'d [f32]) -> Vec<Initializer<'d>> {
        vec![
            Initializer {
                name: "w".into(),
                element: Element::F32,
                shape: vec![values.len() / 3, 3],
                data: Box::new(move |out| out.write_all(bytemuck::cast_slice(values))),
            },
            Initializer {
                name: "axes".into(),
                element: Element::I64,
                shape: vec![1],
                data: Box::new(|out| out.write_all(&1_i64.to_le_bytes())),
            },
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.onnx");
        let values: Vec<f32> = (0..300).map(|i| i as f32).collect();
        let node = Node { op_type: "Relu".into(), attributes: vec![Attribute::ints("axes", &[0, 2])], ..Node::default() };
        let graph = Graph { nodes: vec![node], inputs: vec![ValueInfo::rows("x", Element::F32, 3)], ..Graph::default() };
        for (most, external) in [(u64::MAX, false), (1208, false), (1207, true)] {
            let _ = std::fs::remove_file(beside(&file));
            // 1200 bytes of w and 8 of axes.
            write_within(&file, &graph, &initializers(&values), most.saturating_add(1)).unwrap();
            let read = WholeModel::decode(&*std::fs::read(&file).unwrap()).unwrap();
            assert_eq!((read.ir_version, read.opset_import[0].version), (8, OPSET));
            let whole = read.graph.unwrap();
            assert_eq!((&whole.nodes, &whole.inputs), (&graph.nodes, &graph.inputs));
            let w = &whole.initializers[0];
            assert_eq!((w.dims.as_slice(), w.element, w.name.as_str()), (&[100, 3][..], 1, "w"));
            assert_eq!(beside(&file).exists(), external, "{most}");
            if external {
                let data = std::fs::read(beside(&file)).unwrap();
                assert_eq!(&data[..1200], bytemuck::cast_slice::<f32, u8>(&values));
                assert_eq!(data[4096..4104], 1_i64.to_le_bytes());
                assert_eq!(whole.initializers[1].external[1], Entry { key: "offset".into(), value: "4096".into() });
                assert_eq!((w.location, w.external[0].value.as_str()), (1, "m.onnx.data"));
            } else {
                assert_eq!(w.raw, bytemuck::cast_slice::<f32, u8>(&values));
                assert_eq!(whole.initializers[1].raw, 1_i64.to_le_bytes());
            }
        }
    }

    #[test]
    fn wrong_lengths_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let short = Initializer { name: "w".into(), element: Element::F32, shape: vec![2], data: Box::new(|out| out.write_all(&[0; 4])) };
        let error = write(&folder.path().join("m.onnx"), &Graph::default(), &[short]).unwrap_err();
        assert_eq!(error.to_string(), "initializer w: 4 bytes of data for [2]");
    }
}
