//! `gavel rank`: a file of rows becomes pipelined requests, the scores a file.

pub mod columns;
pub mod json;
pub mod outputs;
pub mod tensors;

#[cfg(test)]
mod tests;
