//! The instructions of one operation: of PostgreSQL those of its client, of SQLite those of both threads, which depend on how
//! they take turns.

use serde_json::{Value, json};

use crate::by_hand::ByHand;
use crate::database::Database;
use crate::operations::{Held, Operation, cases};
use crate::report::Report;
use crate::valgrind::instructions;

/// The argument that this program runs itself with.
pub(crate) const PERFORM: &str = "--perform";

/// Those that nothing is to be prepared for.
const OPERATIONS: [Operation; 3] = [Operation::Insert, Operation::Update, Operation::Find];

/// Adds a row for each case.
pub(crate) fn measure<DB: ByHand>(database: &Database, report: &mut Report) {
    let mut rows = Vec::new();
    for (number, case) in cases::<DB>(OPERATIONS[0]).iter().enumerate() {
        let mut row = json!({ "case": case.name });
        for operation in OPERATIONS {
            // There are no receivers of what is read.
            if let Some(case) = cases::<DB>(operation).get(number) {
                let (operation, number) = (operation.name(), number.to_string());
                let Some(counted) =
                    instructions(&[PERFORM, database.name(), &operation, &number], [200, 1200])
                else {
                    report.not_measured("instructions: valgrind cannot run this program");
                    return;
                };
                println!("{operation}, {}: {counted} instructions", case.name);
                row[operation] = counted.into();
            }
        }
        rows.push(row);
    }
    println!();
    report.add(json!({ "database": database.name(), "group": "instructions", "rows": rows }));
}

/// Does one thing so many times.
pub(crate) async fn perform<DB: ByHand>(database: &Database, args: &[String]) {
    let [operation, number, times] = args else { panic!("what, which case, how often") };
    let operation = OPERATIONS.into_iter().find(|one| one.name() == *operation);
    let cases = cases::<DB>(operation.expect("one of the operations"));
    let case = &cases[number.parse::<usize>().unwrap()];
    let mut held = Held::new::<DB>(database).await;
    for _ in 0..times.parse().unwrap() {
        case.run(&mut held).await;
    }
}

/// As a table.
pub(crate) fn table(rows: &[Value]) -> String {
    let names: Vec<_> = OPERATIONS.iter().map(|operation| operation.name()).collect();
    let head =
        format!("| instructions | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    let row = |row: &Value| {
        let cell = |name: &String| row[name].as_u64().map_or_else(String::new, |n| n.to_string());
        let cells: Vec<_> = names.iter().map(cell).collect();
        format!("| {} | {} |\n", row["case"].as_str().unwrap_or_default(), cells.join(" | "))
    };
    rows.iter().map(row).fold(head, |table, row| table + &row)
}
