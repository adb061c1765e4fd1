//! Unary calls in process and over gRPC, in the same rounds.

use std::time::Duration;

use super::{
    Error, Options,
    grpc::Served,
    in_process::InProcess,
    load::{Seen, Window},
    report::{Cell, Figures, Report, ServerFigures, Single},
    workload::{Workload, workload},
};

/// Workloads: short queries, and passages with a long-tailed distribution of lengths.
const QUERIES: &str = "w1";
const PASSAGES: &str = "w3";
/// Number of callers whose throughput is the base of the open-loop rates.
const FULL: usize = 64;
const WARM: Duration = Duration::from_secs(1);
/// Number of turns per round of loads that are compared with each other.
const TURNS: u32 = 4;
const MIB_IN_KIB: f64 = 1024.0;

/// Runs all rounds. Each has every load once.
pub async fn run(options: &Options) -> Result<Report, Error> {
    let window = Window { warm: WARM, measured: options.seconds };
    let report = Report { cells: Vec::new(), singles: Vec::new() };
    let mut rounds = Rounds { options, window, report };
    for _ in 0..options.rounds {
        rounds.queries(&workload(&options.workloads, QUERIES)?).await?;
        rounds.passages(&workload(&options.workloads, PASSAGES)?).await?;
    }
    Ok(rounds.report)
}

struct Rounds<'a> {
    options: &'a Options,
    window: Window,
    report: Report,
}

impl Rounds<'_> {
    /// One caller, alternating between in process and gRPC, and calls that compute nothing.
    async fn queries(&mut self, workload: &Workload) -> Result<(), Error> {
        let engine = InProcess::start(&self.options.model, &self.options.settings).await?;
        let mut served = self.serve().await?;
        let (mut inside, mut over) = (Seen::default(), Seen::default());
        let (mut health, mut tokenize) = (Seen::default(), Seen::default());
        for _ in 0..TURNS {
            inside.merge(engine.one_by_one(workload, 1, self.turn()).await);
            over.merge(served.one_by_one(workload, 1, self.turn()).await?);
            health.merge(served.health_checks(self.turn()).await?);
            tokenize.merge(served.tokenize(workload, self.turn()).await?);
        }
        drop(engine);
        self.add(workload, "in process, 1 caller", &inside, None);
        self.add_served(workload, "gRPC, 1 caller", &over, &served).await?;
        self.single("Health/Check over gRPC, p50, ms", health.percentile_ms(0.5));
        self.single("Tokenize of w1 over gRPC, p50, ms", tokenize.percentile_ms(0.5));
        let more = |share| Some(over.percentile_ms(share)? - inside.percentile_ms(share)?);
        self.single("w1: over gRPC less in process, p50, ms", more(0.5));
        self.single("w1: over gRPC less in process, p99, ms", more(0.99));
        self.callers(workload, &[1]).await
    }

    /// [`FULL`] callers, alternating between gRPC and in process.
    async fn passages(&mut self, workload: &Workload) -> Result<(), Error> {
        let engine = InProcess::start(&self.options.model, &self.options.settings).await?;
        let mut served = self.serve().await?;
        let (mut whole, mut many, mut over) = (Seen::default(), Seen::default(), Seen::default());
        for _ in 0..TURNS {
            whole.merge(engine.all_at_once(workload, self.turn()).await);
            many.merge(engine.one_by_one(workload, FULL, self.turn()).await);
            over.merge(served.one_by_one(workload, FULL, self.turn()).await?);
        }
        drop(engine);
        self.add(workload, "in process, all in one call", &whole, None);
        self.add(workload, &format!("in process, {FULL} callers"), &many, None);
        self.add_served(workload, &format!("gRPC, {FULL} callers"), &over, &served).await?;
        let share = |of: &Seen| Some(over.texts_per_second() / of.texts_per_second());
        self.single(
            &format!("w3: texts/s of {FULL} callers as a share of one call in process"),
            share(&whole),
        );
        self.single(&format!("w3: the same as a share of {FULL} callers in process"), share(&many));
        let mut served = self.serve().await?;
        let seen = served.all_at_once(workload, self.window).await?;
        self.add_served(workload, "gRPC, all in one call", &seen, &served).await?;
        self.callers(workload, &[FULL]).await
    }

    /// Closed loops with the numbers of callers that are not in `seen`, then open loops at shares of the throughput of
    /// [`FULL`] callers.
    async fn callers(&mut self, workload: &Workload, seen: &[usize]) -> Result<(), Error> {
        for &callers in self.options.callers.iter().filter(|callers| !seen.contains(callers)) {
            let mut served = self.serve().await?;
            let seen = served.one_by_one(workload, callers, self.window).await?;
            let plural = if callers == 1 { "" } else { "s" };
            let load = format!("gRPC, {callers} caller{plural}");
            self.add_served(workload, &load, &seen, &served).await?;
        }
        for &percent in &self.options.shares {
            let Some(full) = self.report.last_rate(&workload.name, &format!("gRPC, {FULL} callers")) else {
                return Ok(());
            };
            let mut served = self.serve().await?;
            let seen = served.at_rate(workload, full * f64::from(percent) / 100.0, self.window).await?;
            let load = format!("gRPC, arrivals at {percent} % of {FULL} callers");
            self.add_served(workload, &load, &seen, &served).await?;
        }
        Ok(())
    }

    /// Part of the window for one turn. Compared loads alternate because the speed of a machine drifts.
    fn turn(&self) -> Window {
        Window { warm: self.window.warm / TURNS, measured: self.window.measured / TURNS }
    }

    async fn serve(&self) -> Result<Served, Error> {
        Served::start(&self.options.binary, &self.options.model, &self.options.settings).await
    }

    async fn add_served(
        &mut self,
        workload: &Workload,
        load: &str,
        seen: &Seen,
        served: &Served,
    ) -> Result<(), Error> {
        let (lag, memory) = (served.lag().await?, served.server.memory()?);
        let figures = ServerFigures {
            lag_p50_ms: lag.p50_ms,
            lag_p99_ms: lag.p99_ms,
            lag_worst_ms: lag.worst_ms,
            rss_before_mib: served.server.rss_at_start_kib / MIB_IN_KIB,
            rss_after_mib: memory.rss_kib / MIB_IN_KIB,
            rss_peak_mib: memory.peak_kib / MIB_IN_KIB,
        };
        self.single("port bound after process start, ms", Some(served.server.bound.as_secs_f64() * 1e3));
        self.single("SERVING after process start, ms", Some(served.server.serving.as_secs_f64() * 1e3));
        self.add(workload, load, seen, Some(figures));
        Ok(())
    }

    fn add(&mut self, workload: &Workload, load: &str, seen: &Seen, served: Option<ServerFigures>) {
        let figures = Figures {
            p50_ms: seen.percentile_ms(0.5),
            p99_ms: seen.percentile_ms(0.99),
            p999_ms: seen.percentile_ms(0.999),
            texts_per_second: seen.texts_per_second(),
            tokens_per_second: seen.tokens_per_second(),
            errors: seen.errors,
            first_error: seen.first_error.clone(),
            served,
        };
        let cells = &mut self.report.cells;
        match cells.iter_mut().find(|cell| cell.workload == workload.name && cell.load == load) {
            Some(cell) => cell.rounds.push(figures),
            None => {
                let (workload, load) = (workload.name.clone(), load.to_owned());
                cells.push(Cell { workload, load, rounds: vec![figures] });
            }
        }
    }

    fn single(&mut self, what: &str, value: Option<f64>) {
        let Some(value) = value else { return };
        let singles = &mut self.report.singles;
        match singles.iter_mut().find(|single| single.what == what) {
            Some(single) => single.rounds.push(value),
            None => singles.push(Single { what: what.to_owned(), rounds: vec![value] }),
        }
    }
}
