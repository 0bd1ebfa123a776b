//! Every cap with its reason. A file or a peer that asks for more is refused, with the cap's name in the message.

/// Address space behind a connection's frame: all provided buffers of a shard's ring, which a receive that is being cancelled may still deliver.
pub const RECEIVE_SLACK_BYTES: usize = 4 << 20;

/// Bytes of a `manifest.json`. Thousands of features with long names stay below one MiB; the tree in memory takes at most about 15 times this.
pub const MANIFEST_BYTES_MAX: u64 = 8 << 20;

/// Bytes of the JSON header of a safetensors file: about 100,000 tensors.
pub const TENSOR_HEADER_BYTES_MAX: u64 = 16 << 20;

/// Weights files of a bundle: one per big table is a sensible way to shard.
pub const WEIGHT_FILES_MAX: usize = 4096;

/// Bytes of a selftest, which is read whole: a hundred rows of thousand-id bags stay far below.
pub const SELFTEST_BYTES_MAX: u64 = 256 << 20;

/// Rows of a selftest: each costs time at every load.
pub const SELFTEST_ROWS_MAX: usize = 1 << 16;

/// Bytes of the name of a feature, table, value or output: bounds error messages, `Describe` and the signature's text.
pub const NAME_BYTES_MAX: usize = 128;

/// Bytes of a model's public name: it becomes a folder, a metric label and a field of every message that names the model.
pub const MODEL_NAME_BYTES_MAX: usize = 64;

/// Features of a model: `Describe` lists each.
pub const FEATURES_MAX: usize = 4096;

/// Embedding tables of a model. [`crate::model::TableId`] holds 16 bits.
pub const TABLES_MAX: usize = 16_384;

/// Steps of a graph: the published models need below 500, unrolled ones a few thousand.
pub const NODES_MAX: usize = 1 << 16;

/// Axes of a tensor or value.
pub const AXES_MAX: usize = 8;

/// Elements of one value per row: 4 MiB of f32; an engine multiplies this by its tile of rows.
pub const VALUE_ELEMENTS_MAX: usize = 1 << 20;

/// Elements of all values of a graph per row: 256 MiB of f64 in the reference interpreter.
pub const GRAPH_ELEMENTS_MAX: usize = 1 << 25;

/// Columns of the answer: a row of scores stays within one page.
pub const OUTPUTS_MAX: usize = 64;

/// f32 per row of all dense features of one scope.
pub const DENSE_WIDTH_MAX: usize = 1 << 16;

/// Ids of one bag: the wire counts them in 16 bits.
pub const BAG_IDS_MAX: u32 = u16::MAX as u32;

/// Ids per row of all sparse and integer features of one scope, if every bag is full.
pub const ROW_IDS_MAX: usize = 1 << 20;

/// Elements of a table's row: the largest embeddings in use have some thousand.
pub const TABLE_DIM_MAX: u32 = 1 << 16;

/// Bytes of an ONNX file: protobuf's own limit. Larger models keep their weights in files beside it.
pub const ONNX_BYTES_MAX: u64 = i32::MAX as u64;

/// Bytes of the file of rules for an import: thousands of features stay far below.
pub const RULES_BYTES_MAX: u64 = 4 << 20;
