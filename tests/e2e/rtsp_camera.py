#!/usr/bin/env python3
"""A camera for the tests: GStreamer's RTSP server plays a film, from its beginning for everybody who connects.

    rtsp_camera.py FILM h264|h265 [--sound] [--user USER --password PASSWORD]

Prints the port that it listens on, and serves until it is ended.
"""

import argparse

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("film")
    parser.add_argument("codec", choices=["h264", "h265"])
    parser.add_argument("--sound", action="store_true")
    parser.add_argument("--user")
    parser.add_argument("--password")
    words = parser.parse_args()
    Gst.init(None)
    codec = words.codec
    # Small packets: a frame is in many of them.
    launch = (
        f'filesrc location="{words.film}" ! qtdemux name=film film.video_0 ! queue ! {codec}parse config-interval=-1'
        f" ! rtp{codec}pay name=pay0 pt=96 mtu=1400"
    )
    if words.sound:
        launch += " film.audio_0 ! queue ! aacparse ! rtpmp4gpay name=pay1 pt=97"
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service("0")
    factory = GstRtspServer.RTSPMediaFactory.new()
    factory.set_launch(f"( {launch} )")
    if words.user:
        auth = GstRtspServer.RTSPAuth.new()
        token = GstRtspServer.RTSPToken.new()
        token.set_string("media.factory.role", "user")
        auth.set_supported_methods(auth.get_supported_methods())
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(words.user, words.password), token)
        server.set_auth(auth)
        permissions = GstRtspServer.RTSPPermissions.new()
        permissions.add_permission_for_role("user", "media.factory.access", True)
        permissions.add_permission_for_role("user", "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory("/live", factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
