//! The resources of a project: what a folder of files says, and every version of it.
//!
//! One directory is a project. A file is a resource and its name is the file's name. This crate reads
//! the files ([`Project`]), points at what is wrong in them ([`Diagnostic`]), describes them as JSON
//! Schemas ([`schema`]), compares them by meaning ([`Change`]) and keeps every applied version
//! ([`History`]). Settings of the process itself are in [`Config`].
//!
//! What is absent: the catalog does not know SQL, so it cannot say whether an expression has a type
//! (`busbar-flow` does that, and points into the file by [`Source::place`]); it starts nothing and
//! opens no socket; it does not know which connectors exist.

mod api;
mod bundle;
mod change;
mod config;
mod connection;
mod de;
mod diagnostic;
mod flow;
mod flow_names;
mod gateway;
mod history;
mod join;
pub mod limits;
mod name;
mod orchestration;
mod parse;
mod process;
mod project;
pub mod schema;
mod settings;
mod shown;
mod step;
mod template;
mod topology;
mod tree;
mod unread;
mod xsd;

pub use api::{ApiRequest, ApiSpec, ApiWork, FhirSpec, SoapSpec, SoapStyle};
pub use bundle::{Bundle, FolderStamp, Kind};
pub use busbar_bus::{Size, Span};
pub use change::{Change, ChangeKind, FileChange, canonical, changes, file_changes, text_diff};
pub use config::{
    AmqpConfig, Config, DataConfig, DeployConfig, FailingTests, FilesConfig, HttpConfig,
    LimitsConfig, LogConfig, LogFormat, MqttConfig,
};
pub use connection::{ConnectionOptions, ConnectionSpec};
pub use diagnostic::{Diagnostic, Severity, has_errors, suggest};
pub use flow::{
    Expect, ExpectDead, ExpectEvent, ExpectLetter, FlowSpec, Given, OutputChange, OutputSpec,
    OutputTarget, ProcessNames, RelayBy, Start, TestSpec,
};
pub use flow_names::node_names;
pub use gateway::{
    AddressRange, ByteOrder, CONNECTION_VARIABLES, CsvFrame, FrameFormat, FrameSpec, GatewayLogin,
    GatewaySpec, GatewayTls, LengthSpec, Transport,
};
pub use history::{History, Version, VersionInfo};
pub use join::{JoinKind, JoinSpec, NamePair};
pub use name::check_name;
pub use orchestration::{
    AwaitSpec, BranchCase, EachSpec, Late, OnFailure, OrchestrationSpec, OrchestrationStart,
    PartKind, PartSpec, PersonSpec, RetryClass, RetrySpec,
};
pub use process::{flow_file, flow_of, process_of};
pub use project::{Parsed, Project};
pub use settings::{CLIENT_VARIABLES, ConfigSource};
pub use step::{
    ANY, AggregateSpec, AlarmSpec, CallRows, CallSpec, DedupeSpec, DelaySpec, HopSpec, LatestSpec,
    MapConstant, MapField, MapFields, MapSpec, MemberCount, OverRate, PatternEvent, PatternSpec,
    PreviousSpec, ResequenceSpec, RouteCase, RouteCondition, RouteDefault, RouteMatch, RouteSpec,
    RouteTests, RouteValues, RouteWay, SplitSpec, StepAt, StepSpec, TestAnswer, ThrottleSpec,
    TopSpec, ValidateSpec, WindowSpec, XmlPaths, XmlSpec, XsltSpec,
};
pub use template::{Template, TemplatePart, Variable};
pub use topology::{INBOX, check_topology, possible_streams};
pub use tree::{Node, Path, PathItem, Source, Spot, Value};
pub use unread::UnreadResources;
pub use xsd::{
    ShapeAttribute, ShapeContent, ShapeElement, ShapeType, XsdColumns, XsdSchemas, XsdShape,
    columns_of_xsd, table_columns, xsd_of,
};
