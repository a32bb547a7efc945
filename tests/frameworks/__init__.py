"""The frameworks' ends: their oldest and newest versions, and their own tests on our sessions."""
