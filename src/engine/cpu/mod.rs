//! The CPU engine.

/// A model's plan for this CPU: steps, packed weights, memory plan.
pub struct Program {}
