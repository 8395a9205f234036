//! What ids and references lead to.
