#include "common/metrics.h"

#include <dirent.h>
#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <mutex>
#include <sstream>
#include <utility>
#include <vector>

namespace sigmacast {
namespace {

class RegisteredCounter final : public Counter {
 public:
    explicit RegisteredCounter(prometheus::Counter& counter) : counter_(counter) {}
    void add(double amount) override { counter_.Increment(amount); }
    [[nodiscard]] double value() const override { return counter_.Value(); }

 private:
    prometheus::Counter& counter_;
};

class RegisteredGauge final : public Gauge {
 public:
    explicit RegisteredGauge(prometheus::Gauge& gauge) : gauge_(gauge) {}
    void set(double value) override { gauge_.Set(value); }
    [[nodiscard]] double value() const override { return gauge_.Value(); }

 private:
    prometheus::Gauge& gauge_;
};

prometheus::MetricFamily single(std::string name, std::string help, prometheus::MetricType type,
                                double value) {
    prometheus::ClientMetric metric;
    metric.gauge.value = value;
    metric.counter.value = value;
    prometheus::MetricFamily family;
    family.name = std::move(name);
    family.help = std::move(help);
    family.type = type;
    family.metric.push_back(metric);
    return family;
}

/// Fields of /proc/self/stat from the third on: the second, the program's name, may hold blanks.
std::vector<std::string> process_stat() {
    std::ifstream file("/proc/self/stat");
    std::string line;
    std::getline(file, line);
    const std::size_t name_end = line.rfind(')');
    std::vector<std::string> fields;
    if (name_end == std::string::npos) {
        return fields;
    }
    std::istringstream rest(line.substr(name_end + 1));
    for (std::string field; rest >> field;) {
        fields.push_back(field);
    }
    return fields;
}

double boot_time_seconds() {
    std::ifstream file("/proc/stat");
    for (std::string line; std::getline(file, line);) {
        if (line.rfind("btime ", 0) == 0) {
            return std::strtod(line.c_str() + 6, nullptr);
        }
    }
    return 0;
}

double open_descriptors() {
    DIR* folder = ::opendir("/proc/self/fd");
    if (folder == nullptr) {
        return 0;
    }
    int count = -3;  // ".", ".." and the folder itself.
    while (::readdir(folder) != nullptr) {
        ++count;
    }
    ::closedir(folder);
    return count;
}

std::vector<prometheus::MetricFamily> process_metrics() {
    using prometheus::MetricType;
    // proc(5) numbers the fields from 1 and the third is at index 0 here.
    constexpr std::size_t kUtime = 14 - 3;
    constexpr std::size_t kStime = 15 - 3;
    constexpr std::size_t kStartTime = 22 - 3;
    constexpr std::size_t kRss = 24 - 3;
    std::vector<prometheus::MetricFamily> families;
    const std::vector<std::string> stat = process_stat();
    if (stat.size() > kRss) {
        const auto ticks = static_cast<double>(::sysconf(_SC_CLK_TCK));
        const auto page = static_cast<double>(::sysconf(_SC_PAGESIZE));
        const auto field = [&](std::size_t i) { return std::strtod(stat[i].c_str(), nullptr); };
        families.push_back(single("process_resident_memory_bytes", "Resident memory.",
                                  MetricType::Gauge, field(kRss) * page));
        families.push_back(single("process_cpu_seconds_total", "User and system CPU time.",
                                  MetricType::Counter, (field(kUtime) + field(kStime)) / ticks));
        families.push_back(single("process_start_time_seconds", "Start time, in Unix seconds.",
                                  MetricType::Gauge,
                                  boot_time_seconds() + field(kStartTime) / ticks));
    }
    families.push_back(single("process_open_fds", "Open file descriptors.", MetricType::Gauge,
                              open_descriptors()));
    return families;
}

}  // namespace

struct Metrics::Impl {
    prometheus::Registry registry;
    std::mutex mutex;  // Metrics are made on any thread; both maps are guarded by it.
    std::map<std::pair<std::string, Labels>, RegisteredCounter> counters;
    std::map<std::pair<std::string, Labels>, RegisteredGauge> gauges;
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {}
Metrics::~Metrics() = default;

Counter& Metrics::counter(const std::string& name, const std::string& help, const Labels& labels) {
    const std::lock_guard lock(impl_->mutex);
    auto& family = prometheus::BuildCounter().Name(name).Help(help).Register(impl_->registry);
    return impl_->counters.try_emplace({name, labels}, family.Add(labels)).first->second;
}

Gauge& Metrics::gauge(const std::string& name, const std::string& help, const Labels& labels) {
    const std::lock_guard lock(impl_->mutex);
    auto& family = prometheus::BuildGauge().Name(name).Help(help).Register(impl_->registry);
    return impl_->gauges.try_emplace({name, labels}, family.Add(labels)).first->second;
}

std::string Metrics::text() const {
    std::vector<prometheus::MetricFamily> families = impl_->registry.Collect();
    for (prometheus::MetricFamily& family : process_metrics()) {
        families.push_back(std::move(family));
    }
    return prometheus::TextSerializer().Serialize(families);
}

}  // namespace sigmacast
