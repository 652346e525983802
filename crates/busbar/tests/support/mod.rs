//! What the tests of the whole program share: a node as a child process, and an MQTT client that
//! does exactly what it is told and no more.
#![allow(dead_code, missing_docs)] // each test binary uses its part

pub mod mqtt;
pub mod node;
pub mod ports;
