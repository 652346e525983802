"""The port of the node: the tutorials take the usual one."""

import os

import pika


def connect():
    return pika.BlockingConnection(pika.ConnectionParameters(host="localhost", port=int(os.environ["AMQP_PORT"])))
