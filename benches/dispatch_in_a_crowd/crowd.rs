//! Ten thousand receivers of other models, in a hundred modules: what `#[receiver]` expands to, but for the functions,
//! which nobody calls.

use sqlx_signals::__private::{Cx, Entry, Info, Receiver, Registration, Returned, inventory};
use sqlx_signals::prelude::*;

struct Nobody;

impl Receiver for Nobody {}

macro_rules! models {
    ($($model:ident)*) => { $(
        #[derive(Debug, Clone, Model)]
        struct $model {
            id: Option<i64>,
        }
    )* };
}

models!(M0 M1 M2 M3 M4 M5 M6 M7 M8 M9);

fn nothing<M: Model>(_: PostSave<'_, M>, _: Cx<'_, '_>) -> Returned {
    Ok(())
}

/// One registration for each combination of four digits: the model, two for the module, and the line with the model.
macro_rules! crowd {
    ($($model:ident $a:literal)*) => { $( crowd!(@ $model $a: 0 1 2 3 4 5 6 7 8 9); )* };
    (@ $model:ident $a:literal: $($b:literal)*) => { $(
        crowd!(@ $model $a $b: 0 1 2 3 4 5 6 7 8 9);
    )* };
    (@ $model:ident $a:literal $b:literal: $($c:literal)*) => { $(
        crowd!(@ $model $a $b $c: 0 1 2 3 4 5 6 7 8 9);
    )* };
    (@ $model:ident $a:literal $b:literal $c:literal: $($d:literal)*) => { $(
        const _: () = {
            static INFO: Info = Info::new::<Nobody, post_save, $model>(
                concat!("a_shop::of_many::module_", $c, $d, "::receiver_", $a, $b),
                concat!("src/of_many/module_", $c, $d, ".rs"),
                10 * $a + $b,
                "",
            );
            static ENTRY: Entry<post_save, $model> = Entry::<post_save, $model>::sync(nothing);
            inventory::submit! { Registration::new::<post_save, $model>(&INFO, &ENTRY) }
        };
    )* };
}

crowd!(M0 0 M1 1 M2 2 M3 3 M4 4 M5 5 M6 6 M7 7 M8 8 M9 9);
