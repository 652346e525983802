//! The OpenAPI document of one API, for gateways and for those who write clients.

use busbar_catalog::{ApiSpec, ApiWork, FhirSpec};
use busbar_event::format::{FieldSpec, FieldType};
use serde_json::{Map, Value as Json, json};

use super::FHIR_JSON;

/// The document of the API `name`.
pub(crate) fn document(name: &str, spec: &ApiSpec) -> Json {
    let fields = &spec.parameters.0;
    let mut paths = Map::new();
    let body = json!({
        "operationId": format!("post_{name}"),
        "requestBody": {
            "required": fields.iter().any(|field| field.required),
            "content": { "application/json": { "schema": object(fields) } },
        },
        "responses": responses(spec),
    });
    paths.insert("post".to_owned(), body);
    if matches!(spec.work(), Some(ApiWork::Query(_))) {
        let parameters = fields.iter().map(|field| {
            json!({ "name": field.name, "in": "query", "required": field.required, "schema": schema(field) })
        });
        let in_url = json!({
            "operationId": format!("get_{name}"),
            "parameters": parameters.collect::<Vec<_>>(),
            "responses": responses(spec),
        });
        paths.insert("get".to_owned(), in_url);
    }
    let mut all = Map::new();
    match spec.work() {
        Some(ApiWork::Fhir(fhir)) => resources(name, fhir, &mut all),
        _ => drop(all.insert(format!("/apis/{name}"), paths.into())),
    }
    if let Some((id, words)) = match spec.work() {
        Some(ApiWork::Request(_)) => Some(("request", "What the answer 202 says of the request.")),
        Some(ApiWork::Orchestration(_)) => Some(("key", "The key of the instance.")),
        Some(ApiWork::Query(_) | ApiWork::Fhir(_)) | None => None,
    } {
        let later = json!({
            "operationId": format!("answer_{name}"),
            "summary": "The answer to a call for which the caller did not wait.",
            "parameters": [{
                "name": id, "in": "path", "required": true, "description": words, "schema": { "type": "string" },
            }],
            "responses": responses(spec),
        });
        all.insert(
            format!("/apis/{name}/answers/{{{id}}}"),
            json!({ "get": later }),
        );
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": name,
            "description": spec.description.clone().unwrap_or_default(),
            "version": "1",
        },
        "paths": all,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": { "Refused": {
                "type": "object",
                "properties": { "error": {
                    "type": "object",
                    "properties": {
                        "code": { "type": "string" },
                        "message": { "type": "string" },
                        "message_zh": { "type": "string" },
                    },
                } },
            } },
        },
        "security": [{ "token": [] }, {}],
    })
}

/// The paths of an API that takes resources.
fn resources(name: &str, fhir: &FhirSpec, paths: &mut Map<String, Json>) {
    let answer = |description: &str| json!({ "description": description });
    let refused = json!({
        "description": "An OperationOutcome that says what is refused, and where.",
        "content": { FHIR_JSON: { "schema": { "type": "object" } } },
    });
    let body =
        json!({ "required": true, "content": { FHIR_JSON: { "schema": { "type": "object" } } } });
    let kind = match fhir.types.as_slice() {
        [] => json!({ "type": "string" }),
        types => json!({ "type": "string", "enum": types }),
    };
    let kind = json!({ "name": "type", "in": "path", "required": true, "schema": kind });
    let id =
        json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } });
    let mut add = |path: &str, operations: Json| {
        paths.insert(format!("/apis/{name}{path}"), operations);
    };
    let post = |done: &str, status: &str| json!({ "requestBody": body, "responses": { status: answer(done), "400": refused } });
    add(
        "",
        json!({ "post": post("A Bundle that says what became of each entry.", "200") }),
    );
    add(
        "/metadata",
        json!({ "get": { "responses": { "200": answer("The CapabilityStatement.") } } }),
    );
    add(
        "/{type}",
        json!({ "parameters": [kind], "post": post("The resource is stored; Location says its id.", "201") }),
    );
    let delete =
        json!({ "responses": { "204": answer("The deletion is stored."), "400": refused } });
    add(
        "/{type}/{id}",
        json!({ "parameters": [kind, id], "put": post("The resource is stored.", "200"), "delete": delete }),
    );
}

fn responses(spec: &ApiSpec) -> Json {
    let refused = |description: &str| {
        let schema = json!({ "$ref": "#/components/schemas/Refused" });
        json!({ "description": description, "content": { "application/json": { "schema": schema } } })
    };
    let answer = |description: &str, schema: Json| json!({ "description": description, "content": { "application/json": { "schema": schema } } });
    let mut all = json!({
        "400": refused("A parameter is unknown, missing or of another type."),
        "401": refused("A login is needed."),
        "403": refused("The caller may not call this API."),
        "503": refused("Too many calls at the same time; see Retry-After."),
    });
    let of_text = json!({ "type": "string" });
    match spec.work() {
        Some(ApiWork::Query(_)) => {
            let rows = json!({ "type": "array", "items": { "type": "object" } });
            let members = json!({ "rows": rows, "truncated": { "type": "boolean" } });
            let schema = json!({ "type": "object", "properties": members });
            all["200"] = answer("The rows.", schema);
        }
        Some(ApiWork::Request(_)) => {
            all["200"] = json!({ "description": "The payload of the reply, in the form that its sender gave it." });
            let schema = json!({ "type": "object", "properties": { "request": of_text } });
            all["202"] = answer("The request is stored; no reply has come in time.", schema);
        }
        _ => {
            let members = json!({
                "key": of_text, "status": of_text, "existed": { "type": "boolean" }, "answer": {}, "failure": {},
            });
            let schema = json!({ "type": "object", "properties": members });
            all["200"] = answer("The instance is done.", schema.clone());
            all["202"] = answer("The instance is stored and goes on.", schema.clone());
            all["409"] = answer("The instance has failed or was cancelled.", schema);
        }
    }
    all
}

fn object(fields: &[FieldSpec]) -> Json {
    let properties: Map<String, Json> = fields
        .iter()
        .map(|field| (field.name.clone(), schema(field)))
        .collect();
    let required = fields.iter().filter(|field| field.required);
    let required: Vec<&str> = required.map(|field| field.name.as_str()).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn schema(field: &FieldSpec) -> Json {
    match field.field_type {
        FieldType::Bool => json!({ "type": "boolean" }),
        FieldType::Int => json!({ "type": "integer", "format": "int64" }),
        FieldType::Float => json!({ "type": "number", "format": "double" }),
        FieldType::Text => json!({ "type": "string" }),
        FieldType::Time => json!({ "type": "string", "format": "date-time" }),
        FieldType::Json => json!({}),
    }
}
