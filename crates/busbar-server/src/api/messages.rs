//! The texts of errors, for those who show them in another language later.

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_event::Language;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Json, Path};
use crate::answer::{Answer, Refusal};
use crate::app::App;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(messages))
}

/// All texts of a language, by code.
#[utoipa::path(get, path = "/api/v1/messages/{language}", tag = "node", security(()),
    params(("language" = String, Path, description = "`en` or `zh`.")),
    responses((status = 200, description = "Code and text; `{name}` stands for an argument.",
        body = BTreeMap<String, String>)))]
async fn messages(Path(language): Path) -> Answer<Json<BTreeMap<&'static str, &'static str>>> {
    let language = match &*language {
        "en" => Language::En,
        "zh" => Language::Zh,
        other => return Err(Refusal::unknown("server.unknown-language", other)),
    };
    Ok(Json(
        busbar_event::messages::all(language).into_iter().collect(),
    ))
}
