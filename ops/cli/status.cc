#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/codec.h"
#include "common/settings.h"
#include "ops/cli/commands.h"
#include "ops/cli/instance.h"
#include "ops/cli/output.h"
#include "ops/cli/remote.h"

namespace sigmacast::cli {
namespace {

namespace json = boost::json;

constexpr std::uint16_t kEdgesExpected = 2;  // Where only a configuration is known.
constexpr std::uint16_t kEdgesMax = 64;

struct Process {
    std::string name;
    std::string base;
    std::string target;
    std::string token = {};                      // For edges.
    std::shared_ptr<tls::Client> tls = nullptr;  // For edges, where they have a certificate.
    bool answers = false;
    bool ready = false;
    json::object body;
    std::string problem;  // Where it does not answer, or not this token.
};

std::string text(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

void take_answer(Process& process, const Result<http::Response>& answer) {
    if (!answer) {
        process.problem = "does not answer";
        const std::string before = "cannot reach " + process.base + ": ";
        const auto end = std::min(answer.error().message.find(". Is it running?"),
                                  answer.error().message.find(kTrustHint));
        if (answer.error().message.starts_with(before)) {
            process.problem +=
                ": " + answer.error().message.substr(before.size(), end - before.size());
        }
        return;
    }
    process.answers = true;
    process.problem = token_problem(answer->status, !process.token.empty());
    if (const auto parsed = parse_json(answer->body); parsed && parsed->is_object()) {
        process.body = parsed->get_object();
    }
    const json::value* ready = process.body.if_contains("ready");
    process.ready = answer->status == 200 && !(ready && ready->is_bool() && !ready->get_bool());
}

void ask(std::vector<Process>& processes) {
    std::vector<Question> questions;
    for (const Process& process : processes) {
        questions.push_back({process.base, process.target, process.token, process.tls});
    }
    const auto answers = get_all(questions);
    for (std::size_t i = 0; i < processes.size(); ++i) {
        take_answer(processes[i], answers[i]);
    }
}

/// Where to look: the ports of an instance, or of a configuration.
struct Place {
    std::string instance = {};  // Its data folder; empty: a configuration, or the defaults.
    bool runs = true;
    std::uint16_t producer_admin = 0;
    std::uint16_t broker_admin = 0;
    std::string edge_host = {};
    std::string certificate = {};           // Of the edges; empty: no TLS.
    std::vector<std::uint16_t> edges = {};  // Those that there should be.
    bool more_edges = false;                // Others may follow on the next ports.
};

/// What --data or --config name; else the instance that is found, else defaults and environment.
Result<Place> place_of(const StatusCommand& command) {
    Place place;
    if (command.config.empty()) {
        auto instance = instance_of(command.data);
        if (!instance) {
            return instance.error();
        }
        if (*instance) {
            place = {.instance = (*instance)->folder,
                     .runs = (*instance)->runs,
                     .producer_admin = (*instance)->producer_admin,
                     .broker_admin = (*instance)->broker_admin,
                     .edge_host = (*instance)->edge_host,
                     .certificate = (*instance)->tls_certificate,
                     .edges = (*instance)->edges};
        }
    }
    if (place.instance.empty()) {
        std::vector<std::string> notes;
        const auto settings = load_settings(
            command.config, [](const char* name) -> const char* { return std::getenv(name); },
            notes);
        if (!settings) {
            return settings.error();
        }
        place = {.producer_admin = settings->producer.admin_port,
                 .broker_admin = settings->broker.admin_port,
                 .edge_host = settings->edge.host,
                 .certificate = settings->edge.tls_certificate,
                 .edges = {settings->edge.port},
                 .more_edges = !command.edges};
    }
    const std::size_t wanted =
        command.edges.value_or(place.instance.empty() ? kEdgesExpected : place.edges.size());
    for (unsigned port = place.edges.back() + 1U; place.edges.size() < wanted && port <= 65535;
         ++port) {
        place.edges.push_back(static_cast<std::uint16_t>(port));
    }
    return place;
}

Process edge(const Place& place, const std::string& token, const std::shared_ptr<tls::Client>& tls,
             std::uint16_t port) {
    return {.name = "edge " + std::to_string(port),
            .base = (tls ? "https://" : "http://") + edge_authority(place.edge_host, port),
            .target = "/api/v1/health",
            .token = token,
            .tls = tls,
            .body = {},
            .problem = {}};
}

/// Producer, broker, and the edges that there should be; then, where it is not known how many there
/// are, those that answer on the next ports.
std::vector<Process> look_at(const Place& place, const std::string& token,
                             const std::shared_ptr<tls::Client>& tls) {
    const auto admin = [](std::string name, std::uint16_t port) {
        return Process{.name = std::move(name),
                       .base = "http://127.0.0.1:" + std::to_string(port),
                       .target = "/readyz",
                       .body = {},
                       .problem = {}};
    };
    std::vector<Process> processes{admin("producer", place.producer_admin),
                                   admin("broker", place.broker_admin)};
    for (const std::uint16_t port : place.edges) {
        processes.push_back(edge(place, token, tls, port));
    }
    ask(processes);
    for (unsigned port = place.edges.back() + 1U;
         place.more_edges && port <= 65535 && processes.size() < kEdgesMax; ++port) {
        std::vector<Process> next{edge(place, token, tls, static_cast<std::uint16_t>(port))};
        ask(next);
        if (!next.front().answers || !next.front().body.contains("uplink")) {
            break;
        }
        processes.push_back(std::move(next.front()));
    }
    return processes;
}

bool durable(const Process& process) {
    const json::value* value = process.body.if_contains("durable");
    return !(value && value->is_bool() && !value->get_bool());
}

/// A broker serves on where its disk refuses, or has damaged rows; that all is well would be a lie
/// all the same.
bool well(const Process& process) {
    return process.ready && durable(process) && text(process.body, "damage").empty();
}

std::string detail(const Process& process) {
    if (!process.problem.empty()) {
        return process.problem;
    }
    std::string out = durable(process) ? "" : "not durable: the disk refuses, see the log";
    if (const std::string damage = text(process.body, "damage"); !damage.empty()) {
        out += (out.empty() ? "" : ", ") + ("damaged database, restart to mend: " + damage);
    }
    for (const std::string_view name : {"status", "error", "reason", "state", "origin",
                                        "engine_url", "uplink", "clients", "values", "pos"}) {
        const json::value* value = process.body.if_contains(name);
        if (!value || value->is_null() || value->is_structured()) {
            continue;
        }
        const std::string shown =
            value->is_string() ? std::string(value->get_string()) : json::serialize(*value);
        out += (out.empty() ? "" : ", ") + std::string(name) + " " + shown;
    }
    return out;
}

const json::array& list(const json::object& object, std::string_view name) {
    static const json::array kNone;
    const json::value* value = object.if_contains(name);
    return value && value->is_array() ? value->get_array() : kNone;
}

std::string breakers_table(const json::array& breakers, Wall now, const Paint& paint) {
    std::vector<std::vector<Cell>> rows;
    for (const json::value& value : breakers) {
        if (!value.is_object()) {
            continue;
        }
        const json::object& breaker = value.get_object();
        const std::string state = text(breaker, "state");
        const json::value* failures = breaker.if_contains("consecutive_failures");
        std::string retry;
        if (const auto at = parse_rfc3339(text(breaker, "retry_at")); at && state != "closed") {
            retry = *at > now ? "in " + countdown_text(*at - now) : "due";
        }
        rows.push_back({{text(breaker, "name"), {}},
                        {state, state},
                        {failures ? json::serialize(*failures) : "-", {}},
                        {retry, {}},
                        {text(breaker, "last_error"), {}}});
    }
    return rows.empty()
               ? ""
               : table({"breaker", "state", "failures", "retry", "last error"}, rows, paint);
}

std::string sources_table(const json::array& sources, const Paint& paint) {
    std::vector<std::vector<Cell>> rows;
    for (const json::value& value : sources) {
        if (!value.is_object()) {
            continue;
        }
        const json::object& source = value.get_object();
        const AgeView age = age_of(source);
        const std::string poll = text(source, "poll");
        // Nothing is wrong where the engine has no such method: no fault, no colour of one.
        const std::string quality = not_offered(age) ? "not offered" : age.quality;
        const std::string words(reason_words(age.reason));
        rows.push_back({{poll.empty() ? "what no poll feeds" : text(source, "topic"), {}},
                        {poll.empty() ? "-" : poll, {}},
                        {text(source, "origin"), {}},
                        {quality, quality},
                        {age.age ? age_text(*age.age) : "-", {}},
                        {not_offered(age) || age.reason.empty()
                             ? words
                             : age.reason + (words.empty() ? "" : ": " + words),
                         {}}});
    }
    // What is well, or wrong, first.
    std::stable_partition(rows.begin(), rows.end(),
                          [](const auto& row) { return row[3].text != "not offered"; });
    return rows.empty()
               ? ""
               : table({"topic", "poll", "origin", "quality", "age", "reason"}, rows, paint);
}

std::string processes_table(const std::vector<Process>& processes, const Paint& paint) {
    std::vector<std::vector<Cell>> rows;
    for (const Process& process : processes) {
        const bool ready = well(process);
        const std::string state = ready ? "ready" : process.answers ? "not ready" : "down";
        rows.push_back(
            {{process.name, {}}, {process.base, {}}, {state, state}, {detail(process), {}}});
    }
    return table({"process", "address", "state", "detail"}, rows, paint);
}

std::string as_json(const Place& place, const std::vector<Process>& processes, bool ready,
                    const json::value& breakers, const json::array& sources) {
    json::array list;
    for (const Process& process : processes) {
        list.push_back({{"name", process.name},
                        {"address", process.base},
                        {"answers", process.answers},
                        {"ready", well(process)},
                        {"problem", process.problem},
                        {"detail", process.body}});
    }
    return json::serialize(json::value{{"ready", ready},
                                       {"instance", place.instance},
                                       {"processes", std::move(list)},
                                       {"breakers", breakers},
                                       {"sources", sources}}) +
           "\n";
}

}  // namespace

int run_status(const StatusCommand& command) {
    const auto place = place_of(command);
    if (!place) {
        complain(place.error().message);
        return kExitUsage;
    }
    const auto token = read_token(command.token_file, std::getenv("SIGMACAST_TOKEN"));
    if (!token) {
        complain(token.error().message);
        return kExitUsage;
    }
    // Asked by address, so that no name can be compared: the certificate is the configured one.
    const auto tls = make_tls(!place->certificate.empty(), {.pin_file = place->certificate});
    if (!tls) {
        complain("edge.tls_certificate: " + tls.error().message);
        return kExitUsage;
    }
    const std::vector<Process> processes = look_at(*place, *token, *tls);
    bool ready = true;
    const Process* teller =
        nullptr;  // An edge that can tell of breakers and topics, best one that is ready.
    for (const Process& process : processes) {
        ready = ready && well(process);
        const bool tells = process.answers && process.body.contains("sources");
        if (tells && (!teller || (process.ready && !teller->ready))) {
            teller = &process;
        }
    }
    json::array breakers;
    if (teller) {
        const auto answer = get(teller->base, "/api/v1/status/circuit-breaker", *token, *tls);
        if (const auto parsed =
                answer ? parse_json(answer->body) : Result<json::value>(answer.error());
            parsed && parsed->is_object()) {
            breakers = list(parsed->get_object(), "breakers");
        }
    }
    const json::array sources = teller ? list(teller->body, "sources") : json::array();
    const Paint paint = paint_for_stdout();
    std::string out;
    if (command.json) {
        out = as_json(*place, processes, ready, breakers, sources);
    } else {
        if (!place->instance.empty()) {
            out = "Sigmacast in " + clean(place->instance) +
                  (place->runs ? "" : ", which does not run now") + "\n\n";
        }
        out += processes_table(processes, paint);
        for (const std::string& more :
             {breakers_table(breakers, system_now().wall, paint), sources_table(sources, paint)}) {
            out += more.empty() ? "" : "\n" + more;
        }
    }
    (void)print(out);
    return ready ? kExitOk : kExitFailed;
}

}  // namespace sigmacast::cli
