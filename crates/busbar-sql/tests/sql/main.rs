//! What is asked and what is answered, as one program: each test program links all of DataFusion.

mod aggregate;
mod cases;
mod common;
mod differential;
mod endings;
mod engine;
mod expressions;
mod hostile;
mod plans;
