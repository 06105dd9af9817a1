// k6 (k6.io): every scenario of this folder, one at a time.
//   k6 run -e SCENARIO=steady examples/load/k6.js
// steady health users growing arrivals stress spike soak; LARDER_URL, LARDER_TOKEN in the environment.

import http from "k6/http";
import { check, sleep } from "k6";

const base = __ENV.LARDER_URL || "http://127.0.0.1:8080";
const chosen = __ENV.SCENARIO || "steady";
const headers = { "Content-Type": "application/json" };
if (__ENV.LARDER_TOKEN) {
  headers.Authorization = `Bearer ${__ENV.LARDER_TOKEN}`;
}

// Stages at a constant rate each: k6 moves evenly from one target to the next, so each begins with a step of no time.
function rates(...steps) {
  const stages = [];
  for (const [target, duration] of steps) {
    stages.push({ target, duration: "0s" }, { target, duration });
  }
  return { executor: "ramping-arrival-rate", startRate: steps[0][0], timeUnit: "1s", preAllocatedVUs: 64, maxVUs: 1000, stages };
}

const scenarios = {
  steady: { ...rates([100, "30s"]), exec: "mix" },
  health: { executor: "shared-iterations", vus: 100, iterations: 10000, exec: "health" },
  users: { executor: "constant-vus", vus: 100, duration: "30s", exec: "user" },
  growing: { ...rates([100, "60s"], [500, "120s"], [1000, "180s"]), exec: "mix" },
  arrivals: { ...rates([10, "60s"], [50, "120s"], [100, "300s"]), exec: "user" },
  stress: {
    executor: "ramping-arrival-rate", startRate: 250, timeUnit: "1s", preAllocatedVUs: 64, maxVUs: 2000,
    stages: [{ target: 20000, duration: "400s" }], exec: "mix",
  },
  spike: { ...rates([100, "20s"], [1000, "10s"], [100, "30s"]), exec: "mix" },
  soak: { ...rates([200, "4h"]), exec: "mix" },
};

export const options = {
  scenarios: { [chosen]: scenarios[chosen] },
  summaryTrendStats: ["avg", "min", "med", "p(90)", "p(95)", "p(99)", "p(99.9)", "max"],
  thresholds: {
    // A stress ends at the first miss; the rate at that time is the knee.
    http_req_duration: [
      { threshold: "p(95)<100", abortOnFail: chosen === "stress", delayAbortEval: "5s" },
      { threshold: "p(99)<50", abortOnFail: chosen === "stress", delayAbortEval: "5s" },
    ],
    http_req_failed: ["rate<0.001"],
  },
};

const key = () => `${base}/api/v1/kv/load/k6/k${Math.floor(Math.random() * 1000)}`;
const body = JSON.stringify({ sensor: 1, celsius: 21.5 });

export function setup() {
  if (chosen === "health") return;
  for (let n = 0; n < 1000; n++) {
    http.put(`${base}/api/v1/kv/load/k6/k${n}?durability=relaxed`, body, { headers });
  }
}

export function mix() {
  if (Math.random() < 0.7) {
    check(http.get(key(), { headers, tags: { name: "read" } }), { "200": (r) => r.status === 200 });
  } else {
    check(http.put(key(), body, { headers, tags: { name: "write" } }), { "204": (r) => r.status === 204 || r.status === 201 });
  }
}

export function user() {
  mix();
  sleep(0.5 + Math.random());
}

export function health() {
  check(http.get(`${base}/health`), { "200": (r) => r.status === 200 });
}

export function teardown() {
  if (chosen !== "health") http.del(`${base}/api/v1/kv/load/k6`, null, { headers });
}
