//! Every bound of this crate, units last.

/// Files in one project.
pub const PROJECT_FILES_MAX: usize = 4096;
/// Bytes of one file of a project.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Bytes of all files of a project together.
pub const PROJECT_BYTES_MAX: usize = 16 << 20;
/// Bytes of the path of a file within its plug-in's folder.
pub const PLUGIN_PATH_BYTES_MAX: usize = 200;
/// How deep folders may nest below that of plug-ins.
pub const PLUGIN_DEPTH_MAX: usize = 8;
/// Names of resources that a hint lists.
pub const KNOWN_NAMES_MAX: usize = 10;
/// Bytes of a resource's name.
pub const NAME_BYTES_MAX: usize = 64;
/// How deep a YAML document may nest.
pub const YAML_DEPTH_MAX: usize = 64;
/// Nodes of one YAML document, aliases expanded.
pub const YAML_NODES_MAX: usize = 200_000;
/// Versions of the project kept in the history.
pub const HISTORY_VERSIONS_MAX: usize = 1000;
/// Bytes of the note given with an applied version.
pub const NOTE_BYTES_MAX: usize = 4096;
/// Bytes of the name of an endpoint or mediation.
pub const ENDPOINT_NAME_BYTES_MAX: usize = 200;
/// Input streams of one flow.
pub const FLOW_INPUTS_MAX: usize = 64;
/// Steps of one flow.
pub const FLOW_STEPS_MAX: usize = 64;
/// Steps of one flow, those of cases included.
pub const FLOW_STEPS_ALL_MAX: usize = 1024;
/// Cases of one `route`.
pub const ROUTE_CASES_MAX: usize = 20_000;
/// How deep `route` steps may stand within cases.
pub const ROUTE_DEPTH_MAX: usize = 8;
/// Outputs of one flow.
pub const FLOW_OUTPUTS_MAX: usize = 32;
/// Parts of one orchestration, those within others included.
pub const ORCHESTRATION_PARTS_MAX: usize = 256;
/// How deep parts of an orchestration may stand within others.
pub const ORCHESTRATION_DEPTH_MAX: usize = 8;
/// What starts one orchestration.
pub const ORCHESTRATION_STARTS_MAX: usize = 16;
/// Parameters of one API.
pub const API_PARAMETERS_MAX: usize = 64;
/// Calls of one API at the same time, where its file does not say.
pub const API_IN_FLIGHT_DEFAULT: u16 = 64;
/// Calls of one API at the same time that its file may allow.
pub const API_IN_FLIGHT_MAX: u16 = 1024;
/// Seconds that a caller of an API waits, where its file does not say.
pub const API_WAIT_SECONDS_DEFAULT: u64 = 30;
/// Seconds that the file of an API may let its callers wait.
pub const API_WAIT_SECONDS_MAX: u64 = 300;
/// Bytes of the namespace and of the address of a web service.
pub const API_URI_BYTES_MAX: usize = 1024;
/// Bytes of one expression or query in a flow.
pub const EXPRESSION_BYTES_MAX: usize = 64 << 10;
/// Bytes of the longest frame that a gateway of a project may be set to.
pub const FRAME_BYTES_MAX: u64 = 16 << 20;
/// Bytes of the longest frame where the file of the gateway does not say.
pub const FRAME_BYTES_DEFAULT: u64 = 64 << 10;
/// Bytes of the text that ends a frame.
pub const DELIMITER_BYTES_MAX: usize = 16;
/// Addresses and networks that a gateway may list.
pub const ALLOW_MAX: usize = 1024;
/// Columns of a gateway's CSV rows.
pub const CSV_COLUMNS_MAX: usize = 256;
/// Files of one XML Schema, those that it includes and imports among them.
pub const XSD_FILES_MAX: usize = 256;
/// How far types, groups and elements of an XML Schema may be derived from one another.
pub const XSD_DERIVATIONS_MAX: usize = 64;
/// Declarations of an XML Schema that are looked at for its columns, each as often as it is used.
pub const XSD_STEPS_MAX: usize = 200_000;
/// Deepest nesting of complex types in an element whose documents are written or read.
pub const SHAPE_DEPTH_MAX: usize = 128;
/// Diagnostics reported for one project; what is beyond is counted, not listed.
pub const DIAGNOSTICS_MAX: usize = 200;

const _: () = assert!(FILE_BYTES_MAX <= PROJECT_BYTES_MAX);
const _: () = assert!(EXPRESSION_BYTES_MAX <= FILE_BYTES_MAX);
