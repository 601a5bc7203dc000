//! A few seeds of the comparison with etcd 3.5.16; `differential -n 100 --steps 2000 --keep-going` is the long one.

use barque_tests_differential::run::{Plan, run};
use barque_tests_differential::servers::Programs;

#[test]
fn barque_answers_as_etcd_does() {
    let programs = match Programs::find() {
        Ok(programs) => programs,
        Err(why) => {
            println!("SKIP barque_answers_as_etcd_does: no etcd 3.5.16 here ({why})");
            return;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for seed in 1..=3 {
        let plan = Plan {
            seed,
            steps: 500,
            keep_going: false,
        };
        let report = runtime
            .block_on(run(&programs, plan))
            .expect("both programs run");
        if let Some(found) = report.found.first() {
            panic!(
                "seed {seed} step {}: {}\nrepeat with: differential --seed {seed} --steps {}",
                found.at_step, found.difference, found.at_step
            );
        }
        assert!(report.etcd_deaths.is_empty(), "{:?}", report.etcd_deaths);
        assert_eq!(report.steps, 500);
    }
}
