// Token replacement and probes, where an evaluation has left them in a run.

function showEvaluation() {
}
