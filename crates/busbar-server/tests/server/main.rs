//! A node in this process, asked from outside, as one program: each test program links all of DataFusion.

mod access;
mod apis;
mod cells;
mod databases;
mod deploy;
mod fhir;
mod flows;
mod gateways;
mod lineage;
mod live;
mod look;
mod node;
mod orchestrations;
mod plugins;
mod processes;
mod publish;
mod roles;
mod services;
mod subscribe;
mod support;
mod tables;
mod trace;
mod wire;
