//! The table: what the policy does on every curve, beside returning nothing and everything.

use super::curves::{CURVES, Curve};
use super::sim::{Manner, SETTINGS, Simulation, Tally};

fn played(curve: &Curve, manner: Manner) -> Tally {
    let mut simulation = Simulation::new(manner, &curve.at);
    simulation.run(curve.length_s as f64);
    simulation.tally
}

/// The three ways beside each other.
struct Row {
    never: Tally,
    always: Tally,
    policy: Tally,
}

impl Row {
    fn of(curve: &Curve) -> Row {
        let [never, always, policy] = [Manner::Never, Manner::Always, Manner::Policy(SETTINGS)]
            .map(|manner| played(curve, manner));
        Row { never, always, policy }
    }

    /// What the policy holds of all that need not be, in percent.
    fn held(&self) -> f64 {
        let [never, always, policy] =
            [&self.never, &self.always, &self.policy].map(Tally::resident_mb_s);
        100.0 * (policy - always) / (never - always).max(1.0)
    }

    fn print(&self, name: &str) {
        let Row { never, always, policy } = self;
        println!(
            "{name:20}{:9.0}{:8.0}{:7.0} |{:9.0}{:8.0}{:8.0}{:5.0} |{:8.2}{:7.2} |{:6}{:6}{:6}{:6}",
            policy.returned_mb(),
            policy.refaulted_mb(),
            policy.premature_refaults_mb(),
            never.resident_mb_s(),
            always.resident_mb_s(),
            policy.resident_mb_s(),
            self.held(),
            always.cost(),
            policy.cost(),
            policy.calls,
            policy.wakes,
            policy.searches,
            policy.trends,
        );
    }

    fn check(&self, curve: &Curve) {
        let Curve { name, length_s, held_max, cost_max, .. } = curve;
        let Row { never, always, policy } = self;
        assert!(policy.resident_mb_s() <= never.resident_mb_s(), "{name}: more than there is");
        assert!(self.held() < *held_max + 0.1, "{name}: holds {:.0} %", self.held());
        assert!(policy.cost() <= *cost_max, "{name}: costs {:.2} %", policy.cost());
        let bearable = policy.cost() <= always.cost() + 0.01 || policy.cost() < 1.2;
        assert!(bearable, "{name}: costs more than returning everything at once");
        assert!(policy.wakes <= 20 + 8 * length_s, "{name}: {} wake-ups", policy.wakes);
    }
}

const HEAD: &str = "\
                          MB, by the policy |                 MB s resident |       cost, % |
                     returned refault premature |    never  always  policy held |  always policy \
| calls wakes walks trends";

#[test]
fn policy_table() {
    println!("{HEAD}");
    let rows: Vec<Row> = CURVES.iter().map(Row::of).collect();
    for (row, curve) in rows.iter().zip(&CURVES) {
        row.print(curve.name);
    }
    for (row, curve) in rows.iter().zip(&CURVES) {
        row.check(curve);
    }
}
