//! Measures what a model knows: its loss on text, CORE, chat tasks and exams, with confidence intervals.

pub mod chat_eval;
pub mod core_eval;
pub mod exam_eval;
pub mod loss_eval;
pub mod score;
pub mod span_loss;
