# frozen_string_literal: true

# A chat across the workers of a Puma cluster:
#
#     puma -C puma.rb config.ru

require_relative "../lib/corecast"

workers 3
threads 2, 2
bind ENV.fetch("BIND", "tcp://127.0.0.1:9292")
preload_app!

# Once, in the master. Two cores for each worker: one listens, one speaks.
CHAT = Corecast::Hub.new(workers: 3, cores: 2)

before_fork { CHAT.start }

on_worker_boot do |index|
  Chat.enter(CHAT, index)
end
