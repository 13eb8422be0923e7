//! Describes how a query is executed.

use std::collections::HashSet;

use rusqlite::{Connection, params_from_iter};

use super::merge::MergedRows;
use super::planner::{AccessPath, BY_ACTOR, BY_KIND, QueryPlan, select_events_sql};
use super::query::Order;

/// Describes the plan, one line for each step.
pub(super) fn explain(db: &Connection, plan: &QueryPlan, order: Order) -> rusqlite::Result<Vec<String>> {
    let describe = |ids: Option<usize>, name: &str| match ids {
        Some(ids) => format!("{name}: {ids} of the {name} can match"),
        None => format!("{name}: all"),
    };
    let (condition, access) = match &plan.access {
        AccessPath::Scan => ("", "all rows of each block".to_owned()),
        AccessPath::ByActor(actors) => (BY_ACTOR, format!("by index, {} actors", actors.len())),
        AccessPath::ByKind(kinds) => (BY_KIND, format!("by index, {} event kinds", kinds.len())),
    };
    let mut lines = vec![
        describe(plan.kinds.as_ref().map(HashSet::len), "event kinds"),
        describe(plan.actors.as_ref().map(HashSet::len), "actors"),
        format!("blocks: {} read, {} skipped", plan.blocks.len(), plan.skipped_blocks),
        format!(
            "order: {} run(s) merged by {}",
            MergedRows::new(plan, order).run_count(),
            match order {
                Order::Time => "time",
                Order::TimeReversed => "time, newest first",
                Order::Arrival => "arrival",
            }
        ),
        format!("rows: {access}"),
    ];
    if plan.exclude_healthchecks {
        let known: i64 = db.query_row("SELECT count(*) FROM healthcheck", [], |row| row.get(0))?;
        lines.push(format!("health checks: excluded, by the stored commands of {known} containers"));
    }
    let mut explain_query = db.prepare(&format!("EXPLAIN QUERY PLAN {}", select_events_sql(condition)))?;
    let parameters = explain_query.parameter_count();
    let steps = explain_query.query_map(params_from_iter(vec![0; parameters]), |row| row.get::<_, String>(3))?;
    for step in steps {
        lines.push(format!("sqlite: {}", step?));
    }
    Ok(lines)
}
