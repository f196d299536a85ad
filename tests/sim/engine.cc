#include "tests/sim/engine.h"

#include <boost/json.hpp>

namespace sigmacast::sim {
namespace {

namespace json = boost::json;

constexpr std::size_t kJobsMax = 4;

http::Response with_result(std::uint64_t id, json::value result) {
    return {.body = json::serialize(
                json::object{{"result", std::move(result)}, {"error", nullptr}, {"id", id}})};
}

http::Response with_error(std::uint64_t id, int code, const char* message) {
    return {.body = json::serialize(
                json::object{{"result", nullptr},
                             {"error", json::object{{"code", code}, {"message", message}}},
                             {"id", id}})};
}

json::object job_data(const std::string& id, std::uint64_t progress, const char* status) {
    return {{"job_id", id}, {"status", status}, {"progress", progress}};
}

}  // namespace

std::vector<PollSettings> sim_polls() {
    const auto poll = [](const char* name, const char* topic, const char* mapper, int interval,
                         int deadline) {
        PollSettings settings;
        settings.name = name;
        settings.method = name;
        settings.topic = topic;
        settings.mapper = mapper;
        settings.interval = Millis{interval};
        settings.deadline = Millis{deadline};
        settings.error_code = "POLL_FAILED";
        return settings;
    };
    std::vector<PollSettings> polls{
        poll("system.status", "system.status", "as_is", 1000, 1000),
        poll("compression.queue.running", "compression.update", "jobs", 1000, 800),
        poll("agents.scheduler.metrics", "scheduler.metrics", "as_is", 2000, 1000),
        poll("storage.pools.list", "storage.update", "storage", 3000, 1500)};
    polls.back().key = "pools";
    return polls;
}

Reply Engine::ask(std::uint64_t id, const std::string& method, const std::string& job) {
    const auto own = method_moods.find(method);
    const Mood now = own == method_moods.end() ? mood : own->second;
    Reply reply;
    reply.delay = time_.micros(500, 20'000);
    switch (now) {
        case Mood::kRefuses:
            reply.response =
                Result<http::Response>(Error{Errc::kUnavailable, "connection refused"});
            return reply;
        case Mood::kHangs:
            return reply;
        case Mood::kHttpError:
            reply.response = Result<http::Response>(http::Response{.status = 500, .body = "oops"});
            return reply;
        case Mood::kRpcError:
            reply.response = Result<http::Response>(with_error(id, -32603, "it failed"));
            return reply;
        case Mood::kLacksMethod:
            reply.response = Result<http::Response>(with_error(id, -32601, "no such method"));
            return reply;
        case Mood::kGarbage:
            switch (time_.random.between(0, 5)) {
                case 0:
                    reply.response = http::Response{.body = "{\"result\":"};
                    return reply;
                case 1:
                    reply.response = with_result(id + 1, json::object{{"v", 666}});
                    return reply;
                case 2:
                    reply.response = with_result(id, nullptr);
                    return reply;
                case 3:
                    reply.response = with_result(id, json::object{{"jobs", "none"}, {"pools", 7}});
                    if (method != "compression.queue.running" && method != "storage.pools.list") {
                        reply.response = http::Response{.body = "[]"};
                    }
                    return reply;
                case 4:
                    reply.response = http::Response{.status = 422, .body = R"({"detail":[]})"};
                    return reply;
                default:
                    reply.response = http::Response{.body = ""};
                    return reply;
            }
        case Mood::kSlow:
            reply.delay = time_.between(Millis{100}, Millis{1500});
            break;
        case Mood::kWell:
        case Mood::kCutsLists:
            break;
    }
    const Micros delay = reply.delay;
    reply = good(id, method, job, now == Mood::kCutsLists);
    reply.delay = delay;
    return reply;
}

Reply Engine::good(std::uint64_t id, const std::string& method, const std::string& job,
                   bool cut) const {
    Reply reply;
    json::value result;
    if (method == "health.check") {
        result = json::object{{"status", "ok"}};
    } else if (method == "compression.queue.status") {
        const auto found = jobs_.find(job);
        if (found == jobs_.end()) {
            reply.response = Result<http::Response>(with_error(id, -32603, "job not found"));
            return reply;
        }
        result =
            job_data(job, found->second.progress, found->second.ended ? "completed" : "running");
    } else if (method == "compression.queue.running") {
        json::array list;
        int running = 0;
        for (const auto& [name, each] : jobs_) {
            if (each.ended) {
                continue;
            }
            ++running;
            if (cut && running > 1) {
                continue;
            }
            json::object data = job_data(name, each.progress, "running");
            reply.facts.push_back({"compression.update", name, content_of(data)});
            list.emplace_back(std::move(data));
        }
        result = json::object{
            {"jobs", std::move(list)}, {"total_running", running}, {"total_pending", 0}};
        reply.facts.push_back({"compression.update", "", content_of(result.as_object())});
        reply.poll = method;
    } else if (method == "storage.pools.list") {
        result =
            json::object{{"pools", json::array{json::object{{"name", "tank"}, {"size", size_}}}}};
        reply.facts.push_back({"storage.update", "pools", content_of(result.as_object())});
        reply.poll = method;
    } else if (method == "agents.scheduler.metrics") {
        result = json::object{{"tasks_scheduled", tasks_}};
        reply.facts.push_back({"scheduler.metrics", "", content_of(result.as_object())});
        reply.poll = method;
    } else if (method == "system.status") {
        result = json::object{{"v", v_}};
        reply.facts.push_back({"system.status", "", content_of(result.as_object())});
        reply.poll = method;
    } else {
        reply.response = Result<http::Response>(with_error(id, -32601, "no such method"));
        return reply;
    }
    reply.response = Result<http::Response>(with_result(id, std::move(result)));
    return reply;
}

void Engine::live() {
    if (!alive) {
        return;
    }
    v_ += time_.chance(40) ? 1u : 0u;
    size_ += time_.chance(10) ? 1u : 0u;
    tasks_ += time_.chance(30) ? time_.random.between(1, 3) : 0u;
    std::size_t running = 0;
    for (auto& [name, job] : jobs_) {
        if (!job.ended) {
            ++running;
            job.progress += time_.chance(40) ? 1u : 0u;
            job.ended = time_.chance(6);
        }
    }
    if (running < kJobsMax && time_.chance(15)) {
        jobs_["j" + std::to_string(next_job_++)] = {};
    }
}

void Engine::restart() {
    jobs_.clear();
    tasks_ = 1;
}

std::map<std::pair<std::string, std::string>, std::string> Engine::state() const {
    std::map<std::pair<std::string, std::string>, std::string> state;
    for (const char* method : {"system.status", "compression.queue.running",
                               "agents.scheduler.metrics", "storage.pools.list"}) {
        for (const Fact& fact : good(1, method, "", false).facts) {
            state[{fact.topic, fact.key}] = fact.content;
        }
    }
    return state;
}

}  // namespace sigmacast::sim
